// Figures are drawn when they come near the window; a recording follows its range input, which mouse, touch and keys move.
"use strict";

// Pictures in three dimensions at the screen's own resolution: four times as fast where the processor draws.
const COARSE = matchMedia("(pointer: coarse)").matches; // a finger on a flat figure scrolls the page
// No bar of buttons: one of them sends the figure to plotly's server. A double click shows all again.
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false, plotGlPixelRatio: 1 };
const STEP = 400; // milliseconds

class Figure {
  constructor(node) {
    this.node = node;
    this.area = node.querySelector(".plot-area");
    this.range = node.querySelector("input[type=range]");
    this.drawing = null; // the promise of the plot, once it was asked for
    this.wanted = this.moving = null; // the frame to show next, and whether one is on its way
    if (this.range) {
      this.output = node.querySelector("output");
      this.button = node.querySelector("button");
      this.range.addEventListener("input", () => (this.pause(), this.show()));
      this.button.addEventListener("click", () => (this.timer ? this.pause() : this.play()));
    }
  }

  draw() {
    return (this.drawing ??= (async () => {
      const content = JSON.parse(this.node.querySelector("script[type='application/json']").textContent);
      this.labels = content.labels;
      this.frames = content.frames ?? [];
      if (COARSE) content.layout.dragmode = false;
      await Plotly.newPlot(this.area, content.data, content.layout, CONFIG);
      if (this.frames.length) await Plotly.addFrames(this.area, this.frames);
      this.node.classList.add("drawn");
    })());
  }

  // Show the frame that the range stands on; of those asked for during a drawing only the last.
  async show() {
    const label = this.node.querySelector("datalist").options[this.range.value].label;
    this.output.textContent = label;
    this.range.setAttribute("aria-valuetext", label);
    this.wanted = Number(this.range.value);
    if (this.moving) return;
    this.moving = true;
    try {
      await this.draw();
      while (this.wanted !== null) {
        const name = this.labels[this.wanted];
        this.wanted = null;
        const at_once = { mode: "immediate", transition: { duration: 0 }, frame: { duration: 0, redraw: true } };
        await Plotly.animate(this.area, [name], at_once);
        this.node.dataset.shown = name;
      }
    } finally {
      this.moving = false;
    }
  }

  play() {
    if (Number(this.range.value) >= Number(this.range.max)) this.range.value = 0;
    else this.range.stepUp();
    this.show();
    this.timer = setInterval(() => {
      if (this.moving) return;
      if (Number(this.range.value) >= Number(this.range.max)) return this.pause();
      this.range.stepUp();
      this.show();
    }, STEP);
    this.say("pause", "❚❚");
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.say("play", "▶");
  }

  say(word, sign) {
    this.button.setAttribute("aria-label", word);
    this.button.textContent = sign;
  }
}

const figures = new Map([...document.querySelectorAll("figure.plot")].map((node) => [node, new Figure(node)]));
const near = new IntersectionObserver(
  (entries) => entries.forEach(({ isIntersecting, target }) => isIntersecting && figures.get(target).draw()),
  { rootMargin: "400px" },
);
figures.forEach((_, node) => near.observe(node));
