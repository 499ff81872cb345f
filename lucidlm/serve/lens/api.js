// The server's routes: values in, answers out. An error has a message that says what to do.

async function refused(response) {
  let message = `the server answered ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch { /* no JSON: the status says it */ }
  return new Error(message);
}

const REMOVED = Symbol("removed");

async function asked(path, body, signal) {
  const raw = body instanceof Blob, kind = raw ? "application/octet-stream" : "application/json";
  const options = body === undefined ? {} : body === REMOVED ? {method: "DELETE"} : {method: "POST", headers: {"Content-Type": kind}, body: raw ? body : JSON.stringify(body)};
  let response;
  try {
    response = await fetch(path, {...options, signal});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `lucidlm serve` still running? Start it again, then reload this page.");
  }
  if (!response.ok) throw await refused(response);
  return response;
}

export const json = async (path, body, signal) => (await asked(path, body, signal)).json();
export const remove = async path => (await asked(path, REMOVED)).json();
export const upload = async (path, file, signal) => (await asked(path, file, signal)).json();
export const text = async (path, body, signal) => (await asked(path, body, signal)).text();

// The events of a stream, one JSON value at a time, until [DONE].
export async function* events(path, body, signal) {
  const reader = (await asked(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", ended = false;
  try {
    for (;;) {
      const {value, done} = await reader.read();
      if (done) return;
      if (ended) continue;  // what closes the connection
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split(/\r?\n/).filter(line => line.startsWith("data:")).map(line => line.slice(5).trimStart()).join("\n");
        ended = data === "[DONE]";
        if (ended || !data) continue;
        const event = JSON.parse(data);
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Float32 numbers, little-endian, from base64.
export function floats(packed) {
  const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
