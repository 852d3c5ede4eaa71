// Draws bars (0 to 100) of loudness as a waveform, mirrored at the middle.
export function drawWave(canvas, bars, colour, slots = bars.length) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.fillStyle = colour;
  const slot = width / Math.max(slots, 1);
  const thick = Math.max(1.5, slot * 0.55);
  bars.slice(-slots).forEach((bar, index) => {
    const tall = Math.max(2, Math.pow(bar / 100, 2) * height);
    context.fillRect(index * slot + (slot - thick) / 2, (height - tall) / 2, thick, tall);
  });
}

export function accent() {
  return getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
}
