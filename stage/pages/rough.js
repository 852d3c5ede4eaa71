// Draws previews on a canvas. An image element would take twice the time of the processor, on which the image is painted
// where there is no graphics card: it loads an address, and the page around it is laid out and drawn again.

// Draws a data URL; returns a promise of whether it was drawn. `wanted` is asked once it is decoded.
export async function drawRough(canvas, address, wanted = () => true) {
  const text = atob(address.slice(address.indexOf(",") + 1));
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" })).catch(() => null);
  if (!bitmap || !wanted()) return false;
  if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
  if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
  return true;
}
