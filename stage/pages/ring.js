// The ring around the button: the level of the voice, the time that is left, or how much of the picture is done.
import { accent } from "./wave.js";

const TURN = 2 * Math.PI;
const FALL = 0.66; // of the level, from one frame to the next
const FRAME = 75; // ms from one frame to the next: without a graphics card, drawing takes much of a processor
const ROOM = 0.06; // square root of a level that may be the noise of a room, and is not drawn
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Ring {
  constructor(canvas) {
    this.canvas = canvas;
    this.colour = accent();
    this.loud = 0;
    this.done = 0;
    this.state = "ready";
    this.since = 0;
    this.running = false;
    this.drawn = 0; // performance.now()
    this.draw();
  }

  level(value) {
    if (!["ready", "speaking"].includes(this.state)) return; // nobody sees it
    this.loud = Math.max(this.loud, Math.min(1, Math.sqrt(value)) - ROOM);
    if (this.loud > 0.01) this.run();
  }

  start(seconds) {
    this.seconds = seconds;
    this.since = performance.now();
    this.run();
  }

  stop() {
    this.since = 0;
    this.run();
  }

  progress(share) {
    this.done = share;
    this.run();
  }

  mode(state) {
    if (state === this.state) return;
    this.state = state;
    this.done = 0;
    this.run();
  }

  run() {
    if (this.running) return;
    this.running = true;
    const left = this.drawn + FRAME - performance.now();
    setTimeout(() => requestAnimationFrame(() => this.frame()), Math.max(0, left));
  }

  frame() {
    this.running = false;
    this.drawn = performance.now();
    this.draw();
    this.loud *= FALL;
    if (this.loud > 0.01 || this.since) this.run();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.clearRect(0, 0, width, height);
    context.translate(width / 2, height / 2);
    const radius = 0.4 * width;
    if (!calm.matches || this.since) this.arc(context, radius + this.loud * 0.07 * width, 1, 4 + 26 * this.loud, 0.35);
    this.arc(context, radius, 1, 3, 0.28);
    if (this.since) {
      const left = 1 - (performance.now() - this.since) / 1000 / this.seconds;
      this.arc(context, radius, Math.max(0, left), 10, 1);
    } else if (this.done) {
      this.arc(context, radius, this.done, 10, 1);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  arc(context, radius, share, thick, opacity) {
    context.globalAlpha = opacity;
    context.strokeStyle = this.colour;
    context.lineWidth = thick;
    context.lineCap = "round";
    context.beginPath();
    context.arc(0, 0, radius, -TURN / 4, -TURN / 4 + TURN * share);
    context.stroke();
    context.globalAlpha = 1;
  }
}
