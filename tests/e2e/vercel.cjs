// Makes calls with the Vercel AI SDK: reads {url, calls} from standard input, and makes one call after the other.
const { embed, generateText, streamText } = require("ai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");

async function make(url, { key, id, kind, stream, words, most }) {
  const compatible = createOpenAICompatible({ name: "model", baseURL: `${url}/v1`, apiKey: key });
  const headers = { "x-request-id": id };
  if (kind === "embeddings") {
    await embed({ model: compatible.embeddingModel("tiny"), value: words, headers });
    return;
  }
  const model = kind === "chat" ? compatible("tiny") : compatible.completionModel("tiny");
  const options = { model, prompt: words, maxOutputTokens: most, headers, maxRetries: 0 };
  if (!stream) {
    await generateText(options);
    return;
  }
  const failed = [];
  for await (const part of streamText({ ...options, onError: ({ error }) => failed.push(error) }).textStream) void part;
  if (failed.length) throw failed[0];
}

let text = "";
process.stdin.on("data", (data) => (text += data));
process.stdin.on("end", async () => {
  const { url, calls } = JSON.parse(text);
  for (const call of calls) await make(url, call);
});
