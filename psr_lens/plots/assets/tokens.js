function mountTokenHeatmaps() {
  "use strict";
  // The page holds the numbers, the legends and the text without colours. circuitsvis' ColoredTokens
  // draws the text with them, in its place, and the layer selector is switched on.
  const FORMAT = "2";

  // A React class component: React gives it `updater` and calls the methods. It lets one root be
  // redrawn in place, where CircuitsVis.render would start another root at every change of layer.
  class LiveTokens {
    constructor(props) {
      this.props = props;
      props.panel.redraw = () => this.updater.enqueueForceUpdate(this);
    }
    componentDidMount() {
      this.props.panel.uncoloured.remove();
    }
    render() {
      const { panel, heatmap } = this.props;
      const row = panel.data.rows[heatmap.row];
      return window.CircuitsVis.ColoredTokens({
        tokens: heatmap.tokens,
        values: heatmap.tokens.map((_, position) => tokenValue(panel.data, heatmap, row, position)),
        // An infinite bound leaves that side white, as does a bound of 0 in the legend.
        minValue: row.low < 0 ? row.low : -Infinity,
        maxValue: row.high > 0 ? row.high : Infinity,
        negativeColor: heatmap.negative,
        positiveColor: heatmap.positive,
        paddingBottom: 0,
      });
    }
  }
  LiveTokens.prototype.isReactComponent = {};

  // circuitsvis computes with the value and also writes it into the tooltip: an array is written
  // as the text that it holds, and counts as what valueOf returns.
  function tokenValue(data, heatmap, row, position) {
    const value = row.values ? row.values[position] : null;
    const number = value === null ? "no value" : `${data.quantity} ${value}`;
    const shown = [`${number} · position ${position} · layer ${heatmap.layers[heatmap.row]}`];
    shown.valueOf = () => value ?? 0;
    return shown;
  }

  function showLegend(panel, row) {
    for (const part of ["low", "high", "note"]) {
      panel.element.querySelector(`.psr-${part}`).textContent = row.labels[part];
    }
  }

  function spansOf(panel) {
    return panel.element.querySelectorAll(".colored-tokens > span");
  }

  // The token under the mouse is outlined in all panels, so that a reader can compare them.
  function linkPanels(root, panels) {
    let linked = [];
    root.addEventListener("mouseover", (event) => {
      linked.forEach((span) => span.classList.remove("psr-linked"));
      linked = [];
      const over = event.target.closest(".colored-tokens > span");
      if (!over) return;
      const own = panels.find((panel) => panel.element.contains(over));
      const position = [...spansOf(own)].indexOf(over);
      linked = panels.map((panel) => spansOf(panel)[position]).filter(Boolean);
      linked.forEach((span) => span.classList.add("psr-linked"));
    });
  }

  function mount(root) {
    root.dataset.psrMounted = "";
    const heatmap = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    heatmap.row = heatmap.first;
    const panels = [...root.querySelectorAll(".psr-panel")].map((element, index) => ({
      element,
      data: heatmap.panels[index],
      uncoloured: element.querySelector(".psr-uncoloured"),
      redraw: () => {},
    }));
    panels.forEach((panel) => {
      const host = document.createElement("div");
      // Equal pictures have equal ids, so a second copy on the page needs a name of its own.
      window.psrLensCount = (window.psrLensCount ?? 0) + 1;
      host.id = `${root.id}-live-${window.psrLensCount}`;
      panel.uncoloured.after(host);
      window.CircuitsVis.render(host.id, LiveTokens, { panel, heatmap });
    });
    if (panels.length > 1) linkPanels(root, panels);

    const slider = root.querySelector(".psr-layer input");
    if (!slider) return;
    slider.value = heatmap.first;
    slider.disabled = false;
    slider.addEventListener("input", () => {
      heatmap.row = Number(slider.value);
      const layer = heatmap.layers[heatmap.row];
      root.querySelector(".psr-layer output").textContent = layer;
      slider.setAttribute("aria-valuetext", `layer ${layer}`);
      panels.forEach((panel) => {
        showLegend(panel, panel.data.rows[heatmap.row]);
        panel.redraw();
      });
    });
  }

  document
    .querySelectorAll(`.psr-tokens[data-psr-lens="${FORMAT}"]:not([data-psr-mounted])`)
    .forEach(mount);
}
