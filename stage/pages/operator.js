// The artist's page.
import { follow, post } from "./stream.js";

const $ = (id) => document.getElementById(id);
let now = null;
let edited = false; // settings were changed and not applied

function render() {
  $("now").textContent = !now.ready ? "the model is loading" : now.paused ? "paused" : "open";
  $("pause").textContent = now.paused ? "Go on" : "Pause";
  const { seconds } = now;
  const mean = seconds.length ? seconds.reduce((a, b) => a + b) / seconds.length : 0;
  facts({
    painting: now.painting || "nothing",
    waiting: now.waiting.length ? now.waiting.join(" · ") : "nobody",
    speaking: now.speaking,
    "open pages": now.pages,
    "seconds a picture": seconds.length ? `${mean.toFixed(1)} (last ${seconds.at(-1).toFixed(1)})` : "–",
    pictures: now.pictures.length,
  });
  $("errors").replaceChildren(...now.errors.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  if (!edited) {
    $("prompts").value = now.prompts.join("\n");
    $("free").checked = now.free;
    $("steps").value = now.steps;
    $("budget").value = now.budget ?? "";
    if (now.microphone && ![...$("microphone").options].some(({ value }) => value === now.microphone)) {
      $("microphone").append(new Option(`this computer: ${now.microphone}`, now.microphone));
    }
    $("microphone").value = now.microphone;
  }
  $("steps-box").hidden = Boolean(now.budget);
  $("budget-box").hidden = !now.budget;
  pictures();
}

function facts(values) {
  const parts = Object.entries(values).flatMap(([name, value]) => [
    Object.assign(document.createElement("dt"), { textContent: name }),
    Object.assign(document.createElement("dd"), { textContent: value }),
  ]);
  $("facts").replaceChildren(...parts);
}

function pictures() {
  const there = new Map([...$("pictures").children].map((one) => [one.dataset.id, one]));
  const articles = now.pictures.map((picture) => {
    const article = there.get(picture.id) ?? newArticle(picture);
    article.classList.toggle("off", picture.hidden);
    article.querySelector(".hide").textContent = picture.hidden ? "Show" : "Hide";
    return article;
  });
  const ids = new Set(articles);
  for (const one of there.values()) if (!ids.has(one)) one.remove();
  articles.forEach((article, index) => {
    if ($("pictures").children[index] !== article) $("pictures").insertBefore(article, $("pictures").children[index] ?? null);
  });
}

function newArticle({ id, prompt }) {
  const article = document.createElement("article");
  article.dataset.id = id;
  const image = Object.assign(new Image(), { src: `/operator/image/${id}`, alt: prompt || "image", loading: "lazy" });
  const name = Object.assign(document.createElement("p"), { textContent: prompt });
  const actions = Object.assign(document.createElement("p"), { className: "actions" });
  const hide = button("Hide", "quiet hide", () => act(id, article.classList.contains("off") ? "show" : "hide"));
  const remove = button("Delete", "quiet", () => sure(id));
  actions.append(hide, remove);
  article.append(image, name, actions);
  return article;
}

function button(text, kind, onclick) {
  return Object.assign(document.createElement("button"), { type: "button", className: `button ${kind}`, textContent: text, onclick });
}

const act = (id, action) => post("/operator/picture", { id, action });

function sure(id) {
  $("sure").showModal();
  $("sure-yes").onclick = () => act(id, "delete").finally(() => $("sure").close());
}

$("sure-no").onclick = () => $("sure").close();
$("pause").onclick = () => post("/operator/change", { paused: !now.paused });
$("settings").addEventListener("input", () => (edited = true));
$("settings").addEventListener("submit", async (event) => {
  event.preventDefault();
  const settings = {
    prompts: $("prompts").value.split("\n").filter((line) => line.trim()),
    free_prompt: $("free").checked,
    microphone: $("microphone").value,
  };
  if (now.budget) settings.budget = Number($("budget").value);
  else settings.steps = Number($("steps").value);
  if (settings.microphone === now.microphone) delete settings.microphone;
  const { problem } = await post("/operator/change", settings);
  edited = Boolean(problem);
  $("applied").textContent = problem ? `not taken: ${problem}` : "applied";
});

follow("artist", {
  all(state) {
    now = state;
    render();
  },
  lost: () => ($("now").textContent = "no connection to the program"),
  back: () => now && render(),
  restarted: () => location.reload(),
});

fetch("/operator/microphones")
  .then((answer) => answer.json())
  .then((found) => {
    for (const [number, name] of Object.entries(found)) {
      if (![...$("microphone").options].some(({ value }) => value === number)) {
        $("microphone").append(new Option(`this computer: ${name}`, number));
      }
    }
  });
