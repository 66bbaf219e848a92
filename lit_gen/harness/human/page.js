"use strict";
// The rater's side of a human test; lit_gen/harness/human/server.py tells what it asks for.
const at = (id) => document.getElementById(id);
const KEYS = { f: "generated", ArrowLeft: "generated", j: "real", ArrowRight: "real" };
let session = null; // what /api/start said
let turn = null; // {done, total, image}
let busy = true; // no image is there to be answered
let right = 0; // with feedback
let retry = null; // what "Try again" does

class Failed extends Error {
  constructor(status, answer) {
    super(answer.error || `The server said ${status}.`);
    this.status = status;
    this.answer = answer;
  }
}

async function ask(path, body) {
  const headers = { "X-Token": session ? session.token : "" };
  const options = { headers, cache: "no-store" };
  if (body) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Failed(0, { error: "The server does not answer. It may have been stopped." });
  }
  if (!reply.ok) throw new Failed(reply.status, await reply.json().catch(() => ({})));
  return reply;
}

function show(id) {
  for (const one of ["intro", "task", "end"]) at(one).hidden = one !== id;
}

function ready(now) {
  busy = !now;
  at("real").disabled = at("generated").disabled = busy;
}

function problem(error, then) {
  at("why").textContent = error.message;
  retry = then;
  at("problem").hidden = false;
}

// Does something; what goes wrong is said, with a button that does it again. The server restarts:
// it is told the pseudonym again. Another tab was faster: its turn is ours.
async function attempt(what) {
  at("problem").hidden = true;
  try {
    await what();
  } catch (error) {
    if (error.status === 401 && session) return attempt(() => start(session.rater));
    if ([404, 409].includes(error.status) && error.answer.total) {
      turn = error.answer;
      at("said").textContent = "The image before had an answer already.";
      return attempt(next);
    }
    problem(error, what);
  }
}

async function start(rater) {
  session = await (await ask("/api/start", { rater })).json();
  turn = session;
  right = 0;
  at("image").width = session.width;
  at("image").height = session.height;
  try { localStorage.setItem("rater", session.rater); } catch { /* private windows */ }
  await next();
}

async function next() {
  ready(false);
  at("count").textContent = `${Math.min(turn.done + 1, turn.total)} of ${turn.total}`;
  at("progress").max = turn.total;
  at("progress").value = turn.done;
  if (turn.image === null) return finish();
  const content = await (await ask(`/api/image/${turn.image}`)).blob();
  const image = at("image"), before = image.src;
  image.src = URL.createObjectURL(content);
  if (before) URL.revokeObjectURL(before);
  await image.decode();
  if (at("task").hidden) {
    show("task");
    document.activeElement.blur();
  }
  ready(true);
}

function finish() {
  show("end");
  const scored = session.feedback && right ? ` In this sitting ${right} were right.` : "";
  at("result").textContent = `All ${turn.total} answers are stored.${scored}`;
  at("end").focus();
}

function vote(answer) {
  if (busy) return;
  ready(false);
  const image = turn.image;
  attempt(async () => {
    try {
      turn = await (await ask("/api/vote", { image, answer })).json();
    } catch (error) {
      if ([500, 507].includes(error.status)) ready(true); // nothing was stored: answer again
      throw error;
    }
    at("said").className = turn.right === false ? "wrong" : "";
    at("said").textContent = "right" in turn
      ? `${turn.right ? "Right" : "Wrong"}: the last image was ${turn.was}.` : "";
    right += turn.right ? 1 : 0;
    attempt(next);
  });
}

at("intro").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => start(at("rater").value));
});
at("real").addEventListener("click", () => vote("real"));
at("generated").addEventListener("click", () => vote("generated"));
at("again").addEventListener("click", () => attempt(retry));
at("other").addEventListener("click", () => {
  try { localStorage.removeItem("rater"); } catch { /* private windows */ }
  session = null;
  at("rater").value = "";
  at("said").textContent = "";
  at("image").removeAttribute("src");
  show("intro");
  at("rater").focus();
});
document.addEventListener("keydown", (event) => {
  const answer = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!answer || at("task").hidden || event.repeat) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  vote(answer);
});
try { at("rater").value = localStorage.getItem("rater") || ""; } catch { /* private windows */ }
at("rater").focus();
