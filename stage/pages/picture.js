// The page of one picture. It has no event stream: it asks now and then whether the picture is still there.
const EVERY = 15000; // ms
const { id } = document.body.dataset;

const WORDS = {
  de: ["Bild speichern", "Karte speichern", "Dieses Bild wurde entfernt."],
  fr: ["Enregistrer l’image", "Enregistrer la carte", "Cette image a été retirée."],
  es: ["Guardar la imagen", "Guardar la tarjeta", "Esta imagen fue retirada."],
};
const language = navigator.languages.map((name) => name.slice(0, 2)).find((name) => name in WORDS || name === "en");
const [save, card, removed] = WORDS[language] ?? ["Save the picture", "Save the card", "This picture was taken down."];
document.documentElement.lang = WORDS[language] ? language : "en";
document.getElementById("save").textContent = save;
document.getElementById("save-card").textContent = card;

async function look() {
  try {
    const { status } = await fetch(`/p/${id}`, { method: "HEAD" });
    if (status === 404) {
      document.getElementById("frame").remove();
      document.querySelector(".actions").remove();
      document.getElementById("message").textContent = document.title = removed;
      clearInterval(timer);
    }
  } catch {
    // the server is away: the picture stays
  }
}

const timer = setInterval(look, EVERY);
addEventListener("visibilitychange", () => document.hidden || look());
