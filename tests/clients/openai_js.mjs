// OpenAI's JavaScript library against a server: its part of the contract. The server's address is the only argument.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const load = createRequire(`${process.cwd()}/`);
const OpenAI = load("openai").default ?? load("openai");
const { toFile } = load("openai");
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "fake-api-key" });
const small = { model: "idle", size: "32x32", num_frames: 5, num_inference_steps: 1 };

async function ended(id) {
  for (;;) {
    const video = await client.videos.retrieve(id);
    if (!["queued", "in_progress"].includes(video.status)) return video;
    await new Promise((done) => setTimeout(done, 200));
  }
}

async function refused(call, code) {
  await assert.rejects(call, (error) => {
    assert.equal(error.code, code, String(error));
    return true;
  });
}

const first = await ended((await client.videos.create({ prompt: "a fox", ...small })).id);
assert.equal(first.status, "completed");
const clip = Buffer.from(await (await client.videos.downloadContent(first.id)).arrayBuffer());
assert.ok(clip.subarray(0, 16).includes("ftyp"));

const picture = await toFile(Buffer.from("no picture"), "a.png", { type: "image/png" });
await refused(() => client.videos.create({ prompt: "x", ...small, input_reference: picture }), "invalid_value");

const remixed = await client.videos.remix(first.id, { prompt: "a wolf" });
assert.equal(remixed.remixed_from_video_id, first.id);

if (client.videos.extend) {
  const extended = await client.videos.extend({ prompt: "it goes on", seconds: "1", video: { id: first.id } });
  assert.equal((await ended(extended.id)).seconds, "1.5");
  await refused(() => client.videos.edit({ prompt: "x", video: { id: first.id } }), "invalid_value");
}

let own;
for (let n = 0; n < 4; n += 1) own = await client.videos.create({ prompt: `${n}`, ...small });
const listed = [];
for await (const video of client.videos.list({ limit: 2 })) listed.push(video.id);
assert.ok(listed.length >= 5 && new Set(listed).size === listed.length);

const gone = await client.videos.delete(own.id);
assert.equal(gone.deleted, true);
await refused(() => client.videos.retrieve(own.id), "video_not_found");
const { version } = JSON.parse(readFileSync("node_modules/openai/package.json", "utf8"));
console.log(`openai-node ${version}: ok`);
