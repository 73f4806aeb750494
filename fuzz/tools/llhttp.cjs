// Compares what bearward reads of answers (the lines of answers.rs) with what llhttp reads, the parser of Node.js.
//
// An answer that both accept must be the same for both, with the same end. Prints the differences, and at last
// the counts as JSON. Fails if there is a difference.

const { HTTPParser } = process.binding("http_parser");
const lines = require("readline").createInterface({ input: process.stdin });

/** Reads an answer; null if it is refused or incomplete. */
function read(bytes, isHead) {
  const parser = new HTTPParser();
  parser.initialize(HTTPParser.RESPONSE, {});
  let answer, fields = [], isInterim = false, isComplete = false;
  const body = [];
  const take = (from) => {
    for (let at = 0; at < from.length; at += 2) fields.push([from[at].toLowerCase(), from[at + 1]]);
  };
  parser[HTTPParser.kOnHeaders | 0] = take;
  parser[HTTPParser.kOnHeadersComplete | 0] = (_major, _minor, headers, _method, _url, status, _text, _upgrade, persists) => {
    if (headers) take(headers);
    isInterim = status >= 100 && status < 200 && status !== 101;
    answer = { status, fields: fields.sort(), persists };
    fields = [];
    return isHead ? 1 : 0;
  };
  parser[HTTPParser.kOnBody | 0] = (part) => body.push(Buffer.from(part));
  parser[HTTPParser.kOnMessageComplete | 0] = () => {
    isComplete = !isInterim;
  };
  const completed = (end) => ({ ...answer, body: Buffer.concat(body).toString("latin1"), trailers: fields.sort(), end });
  for (let at = 0; at < bytes.length; at++) {
    const parsed = parser.execute(bytes.subarray(at, at + 1));
    if (parsed instanceof Error) return null;
    if (isComplete || (answer && answer.status === 101)) return completed(at + 1);
  }
  if (parser.finish() instanceof Error || !isComplete) return null;
  return completed(bytes.length);
}

const counts = { inputs: 0, accepted_by_both: 0, by_bearward_alone: 0, by_llhttp_alone: 0, differences: 0 };
lines.on("line", (line) => {
  const [digits, json] = line.split("\t");
  const input = Buffer.from(digits, "hex");
  const bytes = input.subarray(1), isHead = (input[0] & 1) === 1;
  const ours = JSON.parse(json), theirs = read(bytes, isHead);
  counts.inputs += 1;
  if (!ours || !theirs) {
    counts.by_bearward_alone += ours ? 1 : 0;
    counts.by_llhttp_alone += theirs ? 1 : 0;
    return;
  }
  counts.accepted_by_both += 1;
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const isSame = ours.status === theirs.status && ours.body === theirs.body && same(ours.fields.sort(), theirs.fields) &&
    same(ours.trailers.sort(), theirs.trailers) && (ours.behind === null || ours.behind === bytes.length - theirs.end) &&
    // A connection that llhttp would close is not used again. (It asks for this before it knows that the answer to
    // a HEAD has no body; bearward closes the connection after each HEAD.)
    (ours.behind === null || theirs.persists || isHead);
  if (isSame) return;
  counts.differences += 1;
  console.log("different:", JSON.stringify(bytes.toString("latin1")), "\n  bearward:", json, "\n  llhttp:  ", JSON.stringify(theirs));
});
lines.on("close", () => {
  console.log(JSON.stringify(counts));
  process.exit(counts.differences ? 1 : 0);
});
