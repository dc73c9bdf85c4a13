"""What a real chat model is asked: three questions on each of twenty topics."""

from types import MappingProxyType
from typing import Final

QUESTIONS: Final = MappingProxyType(
    {
        "cooking": (
            "How do I boil an egg?",
            "What can I cook with rice and beans?",
            "Why does bread rise in the oven?",
        ),
        "weather": ("Why does it rain?", "What makes a rainbow?", "How does snow form?"),
        "animals": ("Why do cats purr?", "How do birds find their way?", "What do whales eat?"),
        "space": (
            "Why is the sky dark at night?",
            "What is a black hole?",
            "How far away is the moon?",
        ),
        "health": (
            "How can I sleep better?",
            "Why is it good to drink water?",
            "What should I do when I have a cold?",
        ),
        "travel": (
            "What should I pack for a week at the sea?",
            "How can I travel cheaply?",
            "What is the best way to see a new city?",
        ),
        "history": (
            "Who built the pyramids?",
            "What was the Silk Road?",
            "Why did the Roman Empire fall?",
        ),
        "music": (
            "How do I learn to play the guitar?",
            "What makes a song memorable?",
            "What is a symphony?",
        ),
        "sport": (
            "What are the rules of football?",
            "How do I start running?",
            "Why do people climb mountains?",
        ),
        "plants": (
            "How do trees drink water?",
            "How do I grow tomatoes at home?",
            "Why are leaves green?",
        ),
        "money": (
            "How can I save money every month?",
            "What is inflation?",
            "How does a bank work?",
        ),
        "school": (
            "How can I learn faster?",
            "How do I prepare for an exam?",
            "Why do children go to school?",
        ),
        "work": (
            "How do I write a good email?",
            "What should I say in a job interview?",
            "How can I be less tired at work?",
        ),
        "friends": (
            "How do I make new friends?",
            "What should I give my friend for her birthday?",
            "How do I say sorry?",
        ),
        "sea": (
            "Why is the sea salty?",
            "What causes the tides?",
            "What lives at the bottom of the ocean?",
        ),
        "machines": (
            "How does a bicycle stay upright?",
            "How does a refrigerator work?",
            "How do planes fly?",
        ),
        "art": ("How do I draw a face?", "Who painted the Mona Lisa?", "What is impressionism?"),
        "books": (
            "What is a good book for a rainy day?",
            "How do I write a short story?",
            "What is a fairy tale?",
        ),
        "body": ("How does the heart work?", "Why do we dream?", "Why do we yawn?"),
        "home": (
            "How do I clean a window?",
            "How can I make my room cosy?",
            "How do I get rid of ants in the kitchen?",
        ),
    }
)
"""Three questions on each of twenty topics. Topics, not questions, are split."""
