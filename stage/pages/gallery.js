// Keeps the gallery up to date: new pictures come, removed ones go, and a voice that plays goes on.
import { follow } from "./stream.js";

const main = document.querySelector("main");

async function update() {
  const answer = await fetch("/gallery");
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelectorAll("figure");
  const ids = new Set([...fresh].map((figure) => figure.dataset.id));
  const there = new Map([...main.children].map((figure) => [figure.dataset.id, figure]));
  for (const [id, figure] of there) if (!ids.has(id)) figure.remove();
  for (const figure of [...fresh].reverse()) if (!there.has(figure.dataset.id)) main.prepend(document.adoptNode(figure));
}

follow("gallery", { changed: () => update().catch(() => {}) });
