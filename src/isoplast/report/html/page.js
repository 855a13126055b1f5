"use strict";
// Draws every figure, in the colours of the reader's theme, and redraws it when the theme, the curves shown or the
// layer picked change. A trace belongs to a curve and to a view: `meta` says which.
(() => {
  const darkOf = JSON.parse(document.getElementById("colors").textContent);
  const lightColors = new RegExp(Object.keys(darkOf).join("|"), "gi");
  const darkTheme = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const plots = [...document.querySelectorAll(".plot")];
  const buttons = [...document.querySelectorAll("button.curve")];
  const few = new Set(buttons.filter((one) => one.getAttribute("aria-pressed") === "false").map((one) => one.dataset.curve));
  const hidden = new Set(few);
  const config = {
    displaylogo: false,
    displayModeBar: touch.matches ? false : "hover",
    responsive: true,
    modeBarButtons: [["toImage", "resetScale2d"]],
    toImageButtonOptions: { format: "svg" },
  };

  function draw(plot) {
    const text = document.getElementById(plot.dataset.figure).textContent;
    const themed = darkTheme.matches ? text.replace(lightColors, (color) => darkOf[color.toUpperCase()]) : text;
    const figure = JSON.parse(themed);
    const picker = plot.closest("section").querySelector("select");
    const view = picker ? picker.value : "all";
    for (const trace of figure.data) {
      trace.visible = trace.meta.view === view && !hidden.has(String(trace.meta.curve));
    }
    if (touch.matches) {
      // a finger that crosses a figure scrolls the page
      figure.layout.dragmode = false;
      figure.layout.xaxis.fixedrange = true;
    }
    return Plotly.react(plot, figure.data, figure.layout, config);
  }

  const drawAll = () => Promise.all(plots.map(draw));

  function press() {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.curve)));
    }
    for (const button of document.querySelectorAll("button.all")) {
      button.setAttribute("aria-pressed", String(hidden.size === 0));
    }
    drawAll();
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      const curve = button.dataset.curve;
      if (!hidden.delete(curve)) hidden.add(curve);
      press();
    });
  }
  // All curves, and back to the few that the page began with.
  for (const button of document.querySelectorAll("button.all")) {
    button.addEventListener("click", () => {
      if (hidden.size > 0) hidden.clear();
      else few.forEach((curve) => hidden.add(curve));
      press();
    });
  }
  for (const picker of document.querySelectorAll("select")) {
    picker.addEventListener("change", () => picker.closest("section").querySelectorAll(".plot").forEach(draw));
  }
  darkTheme.addEventListener("change", drawAll);
  drawAll().then(() => document.documentElement.setAttribute("data-drawn", "true"));
})();
