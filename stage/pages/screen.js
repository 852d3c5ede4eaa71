// The audience's screen. What is more important comes first: painting, a voice, the newest picture, past pictures.
import { drawRough } from "./rough.js";
import { follow } from "./stream.js";
import { accent, drawWave } from "./wave.js";

const SLIDE = 9000; // ms of each past picture
const LINGER = 15000; // ms of the newest picture
const VOICE_BARS = 180; // of the voice that is heard, 20 ms each
const FADED = 2600; // ms after which an image that was faded out is removed
const $ = (id) => document.getElementById(id);

let slides = []; // {id, prompt, wave}, the newest first
let at = -1; // the slide that is shown
let painting = false;
let speaking = false;
let shown = ""; // id of the newest picture while it lingers
let open = ""; // address that phones can reach
let voice = [];
let timer;

// --- images ----------------------------------------------------------------------------------------------------------
// Fades an image in above those that are there. They stay below it until it is there, so that it gets no darker between.
async function put(address, name) {
  const image = Object.assign(new Image(), { alt: name, src: address });
  try {
    await image.decode();
  } catch {
    return; // removed meanwhile
  }
  const before = [...$("wall").children];
  $("wall").append(image);
  image.getBoundingClientRect(); // so that the fade begins from here
  image.classList.add("on");
  setTimeout(() => before.forEach((one) => one.remove()), FADED);
}

// Shows a preview in place of the one before, without a fade.
async function grow(address, name) {
  const before = $("wall").querySelector("canvas.on");
  const canvas = before ?? Object.assign(document.createElement("canvas"), { className: "on", role: "img" });
  canvas.ariaLabel = name;
  const drawn = await drawRough(canvas, address, () => painting);
  if (drawn && !before) $("wall").append(canvas);
}

function clearWall() {
  for (const image of $("wall").children) {
    image.classList.remove("on");
    setTimeout(() => image.remove(), FADED);
  }
}

// --- what is shown ---------------------------------------------------------------------------------------------------
function mode() {
  const now = painting ? "painting" : speaking ? "speaking" : shown ? "picture" : slides.length ? "idle" : "empty";
  if (document.body.dataset.mode !== now) document.body.dataset.mode = now;
  document.body.toggleAttribute("data-speaking", speaking);
  return now;
}

function card({ prompt, wave, id = "", voice: heard = "" }) {
  $("card-prompt").textContent = prompt;
  $("card-voice").textContent = heard;
  drawWave($("card-wave"), wave, accent());
  $("card-qr").hidden = !id || !open;
  if (id && open) {
    $("card-qr").src = `/p/${id}/qr.svg`;
    $("card-qr").alt = prompt;
  }
}

// Begins the waveform of a voice: a line at rest, with its prompt below.
function hear(prompt) {
  voice = new Array(VOICE_BARS).fill(0);
  drawWave($("voice"), voice, accent(), VOICE_BARS);
  $("heard").textContent = prompt;
}

function linger(picture) {
  shown = picture.id;
  card(picture);
  put(`/image/${picture.id}`, picture.prompt);
  after(LINGER);
  mode();
}

function after(time) {
  clearTimeout(timer);
  timer = setTimeout(next, time);
}

function next() {
  shown = "";
  if (mode() === "idle") {
    at = (at + 1) % slides.length;
    const address = `/image/${slides[at].id}`;
    if ($("wall").lastElementChild?.getAttribute("src") !== address) put(address, slides[at].prompt);
  }
  after(SLIDE);
}

// --- events ----------------------------------------------------------------------------------------------------------
follow("screen", {
  show(state) {
    slides = state.slides;
    open = state.public;
    painting = Boolean(state.paint);
    if (state.speak !== null && !speaking) hear(state.speak);
    speaking = state.speak !== null;
    if (shown && !slides.some(({ id }) => id === shown)) shown = "";
    for (const image of $("wall").children) {
      const address = image.getAttribute("src"); // null: a preview
      if (address && !slides.some(({ id }) => address === `/image/${id}`)) image.remove();
    }
    if (painting) {
      card(state.paint);
      if (state.paint.preview) grow(state.paint.preview, state.paint.prompt);
    }
    if (mode() === "idle" && !$("wall").children.length) next();
    else if (!shown) after(SLIDE);
    if (mode() === "empty") clearWall();
  },
  speak(prompt) {
    speaking = true;
    shown = ""; // a voice ends its time, also if nothing is painted of it
    hear(prompt);
    mode();
  },
  wave(bars) {
    voice = [...voice, ...bars].slice(-VOICE_BARS);
    drawWave($("voice"), voice, accent(), VOICE_BARS);
  },
  silence() {
    speaking = false;
    if (mode() === "idle") after(SLIDE / 3);
  },
  paint(what) {
    painting = true;
    shown = "";
    clearWall();
    card(what);
    mode();
  },
  preview(address) {
    grow(address, $("card-prompt").textContent);
  },
  picture(picture) {
    painting = false;
    slides = [picture, ...slides];
    at = 0;
    linger(picture);
  },
  failed() {
    painting = false;
    clearWall();
    mode();
    after(0);
  },
  lost() {
    $("note").textContent = "…";
  },
  back() {
    $("note").textContent = "";
  },
  restarted() {
    location.reload(); // the program may be another version
  },
});

if (navigator.wakeLock) {
  const awake = () => document.hidden || navigator.wakeLock.request("screen").catch(() => {});
  addEventListener("visibilitychange", awake);
  awake();
}
