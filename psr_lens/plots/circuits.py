"""circuitsvis' script, from the installed wheel, ready to be put into a page.

circuitsvis' own HTML loads its script from a CDN, and checks for a connection each time it is
displayed. The wheel also carries the whole script; pictures here embed that copy and never open a
connection.
"""

import base64
import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_ASSETS = Path(__file__).parent / "assets"


@cache
def bundle() -> str:
    """The script that defines `window.CircuitsVis`, safe inside a script element (1.3 MB).

    Raises:
        ModuleNotFoundError: If circuitsvis is not installed, or its wheel carries no script.
    """
    # The specification, not the module: importing circuitsvis costs seconds and is not needed.
    spec = find_spec("circuitsvis")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "dist" / "cdn" / "iife.js"
        if path.is_file():
            script = path.read_text(encoding="utf-8")
            # A source map comment makes developer tools ask for a file beside the page.
            script = script.split("\n//# sourceMappingURL=")[0]
            return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    found = "has no dist/cdn/iife.js" if spec else "is not installed"
    raise ModuleNotFoundError(
        f"circuitsvis {found}, but it draws the token heatmaps; pip install circuitsvis==1.43.3"
    )


@cache
def mount_script() -> str:
    """The function that has circuitsvis draw the token heatmaps of a page."""
    return (_ASSETS / "tokens.js").read_text(encoding="utf-8").rstrip().rstrip(";")


def page_scripts() -> str:
    """Script elements for the end of a page: circuitsvis once, then all its token heatmaps."""
    return f"<script>{bundle()}</script>\n<script>({mount_script()})();</script>\n"


@cache
def notebook_script() -> str:
    """A script element for one output cell, which may be shown alone or among others (0.5 MB).

    The bundle travels compressed and is unpacked by the first output of a page only. Where the
    browser cannot unpack it, the text stays uncoloured.
    """
    packed = base64.b64encode(gzip.compress(bundle().encode(), 9, mtime=0)).decode()
    return f"""<script>(() => {{
const mount = {mount_script()};
if (window.CircuitsVis) {{ mount(); return; }}
window.psrLensCircuitsVis ??= (async () => {{
  const bytes = Uint8Array.from(atob("{packed}"), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}})();
window.psrLensCircuitsVis.then(mount, () => {{}});
}})();</script>"""
