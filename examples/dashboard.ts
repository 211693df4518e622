// deno run --no-prompt --allow-net=127.0.0.1:4465,127.0.0.1:8080 examples/dashboard.ts 127.0.0.1 70001 127.0.0.1 8080

// A page in the browser that shows who is connected and what they say, as it
// comes. Arguments: address and communication port for the robots, address and
// port of the page. Without them robots may come from anywhere, and the page is
// for this machine alone: --allow-net=0.0.0.0:4465,127.0.0.1:8080.

import { type Address, createTcpServer } from "@daystar/comm";

const [
  hostname = "0.0.0.0",
  port = "70001",
  pageHostname = "127.0.0.1",
  pagePort = "8080",
] = Deno.args;

/** What a page that has just been opened is shown of what was before. */
const HISTORY = 200;
/** How much of a message it shows, in characters. */
const MAX_SHOWN = 2_000;
/** Bytes that may wait for a browser that does not keep up. */
const MAX_WAITING = 1_048_576;

type Kind = "connect" | "message" | "disconnect" | "error";

const history: string[] = [];
const connected = new Set<string>();
const pages = new Set<WebSocket>();

/** Tells every page, and remembers it for those to come. */
function tell(type: Kind, address: Address | undefined, text = "") {
  const client = address ? address.join(":") : "";
  const shown = text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text;
  const event = JSON.stringify({ type, client, text: shown, time: Date.now() });
  if (type === "connect") connected.add(client);
  if (type === "disconnect") connected.delete(client);
  history.push(event);
  if (history.length > HISTORY) history.shift();
  for (const page of pages) {
    if (page.readyState !== WebSocket.OPEN) continue;
    if (page.bufferedAmount > MAX_WAITING) page.close(1013, "too slow");
    else page.send(event);
  }
}

const robots = createTcpServer(
  Number(port),
  (message, client) => tell("message", client, message),
  {
    hostname,
    onConnect: (client) => tell("connect", client),
    onDisconnect: (client, error) => tell("disconnect", client, error?.message),
    onError: (error, client) => tell("error", client, error.message),
  },
);

function openPage(request: Request): Response {
  // Any page of any site may try to open a WebSocket to this machine.
  const origin = request.headers.get("origin") ?? "";
  if (URL.parse(origin)?.host !== request.headers.get("host")) {
    return new Response("Another site's page may not listen here", {
      status: 403,
    });
  }
  const { socket, response } = Deno.upgradeWebSocket(request);
  socket.onopen = () => {
    const clients = [...connected];
    const events = history.map((event) => JSON.parse(event));
    socket.send(JSON.stringify({ type: "start", clients, events }));
    pages.add(socket);
  };
  socket.onclose = () => pages.delete(socket);
  return response;
}

function handle(request: Request): Response {
  const { pathname } = new URL(request.url);
  if (
    pathname === "/events" && request.headers.get("upgrade") === "websocket"
  ) {
    return openPage(request);
  }
  if (pathname !== "/") return new Response("Not found", { status: 404 });
  return new Response(page(), {
    headers: {
      "content-type": "text/html; charset=utf-8",
      // Nothing from elsewhere, and no script but the one of this page.
      "content-security-policy":
        "default-src 'none'; connect-src 'self'; img-src data:; " +
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    },
  });
}

const interrupted = new AbortController();
const http = Deno.serve({
  hostname: pageHostname,
  port: Number(pagePort),
  signal: interrupted.signal,
  onListen: ({ hostname, port }) => {
    console.log(`Robots: ${robots.address}`);
    console.log(`Page: http://${hostname}:${port}/, Ctrl-C stops`);
  },
}, handle);

const stop = () => {
  Deno.removeSignalListener("SIGINT", stop);
  for (const page of pages) page.close(1001, "the dashboard stops");
  interrupted.abort();
};
Deno.addSignalListener("SIGINT", stop);
await http.finished;
await robots.stop();

function page(): string {
  return `<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Robots</title>
<link rel="icon" href="data:,">
<style>
  :root {
    color-scheme: light dark;
    --line: light-dark(#d8dee6, #30363f);
    --soft: light-dark(#5b6673, #97a3b1);
    --card: light-dark(#fff, #191d23);
    --good: light-dark(#1a7f43, #4cc27b);
    --bad: light-dark(#b3261e, #ff8a80);
  }
  * { box-sizing: border-box }
  body {
    margin: 0 auto; max-width: 64rem; padding: 1.5rem;
    font: 1rem/1.5 system-ui, sans-serif;
    background: light-dark(#f3f5f8, #101317);
    color: light-dark(#17202b, #e6ebf1);
  }
  header { display: flex; align-items: baseline; gap: 1rem; flex-wrap: wrap }
  h1 { margin: 0; font-size: 1.5rem }
  h2 { margin: 1.75rem 0 .5rem; font-size: 1rem; color: var(--soft) }
  #state::before { content: "●"; margin-right: .4em; color: var(--bad) }
  #state.live::before { color: var(--good) }
  #robots { display: grid; gap: .75rem; padding: 0; margin: 0;
    grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)) }
  #robots li, .none {
    list-style: none; padding: .6rem .9rem; min-width: 0;
    border: 1px solid var(--line); border-radius: .5rem; background: var(--card);
  }
  #robots p { margin: 0; white-space: nowrap; overflow: hidden;
    text-overflow: ellipsis }
  #robots .last { color: var(--soft) }
  .none { color: var(--soft); border-style: dashed }
  .scroll { border: 1px solid var(--line); border-radius: .5rem;
    background: var(--card); overflow: auto }
  table { width: 100%; border-collapse: collapse }
  th, td { padding: .4rem .9rem; text-align: left; vertical-align: top }
  th { font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line) }
  tr + tr td { border-top: 1px solid var(--line) }
  td { font-variant-numeric: tabular-nums; white-space: nowrap }
  td:last-child { width: 100%; white-space: pre-wrap; overflow-wrap: anywhere }
  .connect td:last-child { color: var(--good) }
  .disconnect td:last-child { color: var(--soft) }
  .error td:last-child { color: var(--bad) }
</style>
<header>
  <h1>Robots</h1>
  <span id="state" role="status">connecting …</span>
</header>
<h2>Connected</h2>
<ul id="robots"></ul>
<p id="nobody" class="none">Nobody. Robots connect to port ${
    robots.address[1]
  }.</p>
<h2>Messages, the newest first</h2>
<div class="scroll">
  <table>
    <thead><tr><th>Time<th>Robot<th>Message</thead>
    <tbody id="log"></tbody>
  </table>
</div>
<script type="module">
  const MAX_ROWS = ${HISTORY};
  const [state, robots, nobody, log] = ["state", "robots", "nobody", "log"]
    .map((id) => document.getElementById(id));
  const cards = new Map();

  // textContent, never innerHTML: what robots send is text and nothing else.
  function add(parent, tag, text) {
    const element = parent.appendChild(document.createElement(tag));
    element.textContent = text;
    return element;
  }

  function welcome(client) {
    const card = robots.appendChild(document.createElement("li"));
    add(card, "p", client);
    const last = add(card, "p", "has said nothing so far");
    last.className = "last";
    cards.set(client, { card, last, count: 0 });
    nobody.hidden = true;
  }

  function goodbye(client) {
    cards.get(client)?.card.remove();
    cards.delete(client);
    nobody.hidden = cards.size > 0;
  }

  function write({ type, client, text, time }) {
    const row = document.createElement("tr");
    row.className = type;
    add(row, "td", new Date(time).toLocaleTimeString("en-GB"));
    add(row, "td", client);
    add(row, "td", {
      connect: "connected",
      disconnect: "disconnected" + (text && ": " + text),
    }[type] ?? text);
    log.prepend(row);
    while (log.rows.length > MAX_ROWS) log.lastChild.remove();
    const robot = type === "message" && cards.get(client);
    if (robot) robot.last.textContent = ++robot.count + " × · " + text;
  }

  function take(event) {
    if (event.type === "start") {
      for (const client of [...cards.keys()]) goodbye(client);
      log.replaceChildren();
      for (const client of event.clients) welcome(client);
      for (const past of event.events) write(past);
      state.textContent = "live";
      state.className = "live";
      return;
    }
    if (event.type === "connect") welcome(event.client);
    write(event);
    if (event.type === "disconnect") goodbye(event.client);
  }

  function listen() {
    const socket = new WebSocket("ws://" + location.host + "/events");
    socket.onmessage = ({ data }) => take(JSON.parse(data));
    socket.onclose = () => {
      state.textContent = "disconnected, trying again …";
      state.className = "";
      setTimeout(listen, 1000);
    };
  }
  listen();
</script>
`;
}
