// One event stream of the server, opened again whenever it ends.
const RETRY = 1500; // ms
const SILENCE = 25000; // ms without a sign of life, of which the server gives one every 10 s

// handlers: functions by name of event; lost and back are called when the connection breaks and returns.
export function follow(topic, handlers) {
  let source, boot, watchdog, broken = false;

  function alive() {
    clearTimeout(watchdog);
    watchdog = setTimeout(again, SILENCE);
    if (broken) {
      broken = false;
      handlers.back?.();
    }
  }

  function again() {
    source.close();
    lost();
    setTimeout(open, RETRY);
  }

  function lost() {
    if (!broken) {
      broken = true;
      handlers.lost?.();
    }
  }

  function open() {
    source = new EventSource(`/events/${topic}`);
    source.onopen = alive;
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) again();
      else lost();
    };
    source.addEventListener("hello", (event) => {
      const name = JSON.parse(event.data);
      const restarted = boot && boot !== name;
      boot = name;
      alive();
      if (restarted) handlers.restarted?.();
    });
    source.addEventListener("beat", alive);
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => {
        alive();
        handle(JSON.parse(event.data));
      });
    }
  }

  open();
  addEventListener("pagehide", () => source.close());
}

export async function post(path, content = {}) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(content),
  });
  return { status: answer.status, ...(await answer.json()) };
}
