// Requests to the server that this page comes from.

let key = sessionStorage.getItem("key") ?? "";

export function useKey(given) {
  key = given;
  sessionStorage.setItem("key", given);
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(method, path, body, more = {}) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const answer = await fetch(path, { method, body, headers, ...more });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, told.error?.message ?? `The server answered ${answer.status}.`);
}

const json = async (...given) => (await request(...given)).json();
const of = (session, rest = "") => `/v1/sessions/${session}${rest}`;

export const methods = () => json("GET", "/v1/methods");
export const open = (settings) => json("POST", "/v1/sessions", JSON.stringify(settings));
export const push = (session, picture, time) => json("POST", of(session, `/frames?time=${time}`), picture);
export const stats = (session) => json("GET", of(session));
export const kept = (session, last) => json("GET", of(session, `/kept?last=${last}`));
export const close = (session) => request("DELETE", of(session), undefined, { keepalive: true });

// Yields the pieces of an answer as they are generated.
export async function* ask(session, question) {
  const answer = await request("POST", of(session, "/ask"), JSON.stringify({ question, stream: true }));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const data of events.map((event) => event.replace(/^data: /, ""))) {
      if (data === "[DONE]") return;
      const told = JSON.parse(data);
      if (told.error) throw new Refused(500, told.error.message);
      if (told.piece) yield told.piece;
    }
  }
}
