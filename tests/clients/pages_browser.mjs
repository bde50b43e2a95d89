// The pages in a real browser: prompts are submitted, the wall follows, the best of four seeds is found, and a clip is made again.
// Arguments: the server's address, the browser's path.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const load = createRequire(`${process.cwd()}/`);
const { chromium } = load("playwright-core");
const axe = readFileSync(load.resolve("axe-core/axe.min.js"), "utf8");
const [base, executablePath] = process.argv.slice(2);
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const SMALL = { preset: "idle", num_frames: 9, width: 64, height: 64, num_inference_steps: 1 };
const HOSTILE = "<img src=x onerror=alert(1)> \u202eevil =1+1";

const browser = await chromium.launch({ executablePath, args: FLAGS });
const problems = [];

async function opened(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("dialog", (dialog) => problems.push(`a dialog: ${dialog.message()}`) && dialog.dismiss());
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  return page;
}

async function looksRight(page, name) {
  const session = await page.context().newCDPSession(page);
  const expression = `${axe};axe.run({resultTypes:["violations"]}).then((r)=>JSON.stringify(r.violations.map((v)=>[v.id,v.nodes[0].html])))`;
  const { result } = await session.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
  assert.deepEqual(JSON.parse(result.value), [], `${name}: axe-core`);
  const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(wider <= 0, `${name} is ${wider} pixels wider than the window`);
}

// Prompts are pasted: first what they would become, then they are submitted.
const page = await opened({ viewport: { width: 1280, height: 900 } });
await page.goto(`${base}/submit`);
const rows = [{ prompt: "a fox", seeds: "1-4", ...SMALL }, { prompt: HOSTILE, seed: 7, labels: { shot: HOSTILE }, ...SMALL }];
await page.fill("textarea[name=text]", rows.map((row) => JSON.stringify(row)).join("\n"));
await page.selectOption("select[name=format]", "jsonl");
await page.fill("input[name=name]", "browser");
await page.fill("input[name=score]", "checks");
await page.click("text=Show what it would make");
await page.waitForSelector("text=5 clips. Nothing is stored yet");
await looksRight(page, "submit");
await page.click("button.strong");

// The wall follows the work without being loaded anew: five posters come.
await page.waitForURL("**/batches/*");
await page.evaluate(() => (window.sameDocument = true));
await page.waitForFunction(() => document.querySelectorAll(".card .poster").length === 5, null, { timeout: 120_000 });
assert.ok(await page.evaluate(() => window.sameDocument));
await looksRight(page, "batch");

// A clip plays under the pointer, and its decoder is given back.
await page.hover(".card .frame >> nth=0");
await page.waitForSelector(".card video");
await page.mouse.move(0, 0);
await page.waitForFunction(() => !document.querySelector(".card video"));

// The best of four seeds: filtered, sorted, by prompt, in a grid, compared.
const batch = page.url();
await page.goto(`${batch}?q=fox&metric=checks.flicker&sort=best`);
assert.equal(await page.locator(".card").count(), 4);
await page.goto(`${batch}?view=prompts`);
assert.equal(await page.locator("section.group").count(), 2);
await page.goto(`${batch}?view=grid&by=seed`);
assert.equal(await page.locator("table.grid thead th").count(), 6);
await looksRight(page, "grid");
for (const box of (await page.locator("input[form=compare]").all()).slice(0, 2)) await box.check();
await page.click("text=Compare the chosen");
await page.waitForSelector("#controls:not([hidden])");
await page.waitForFunction(() => [...document.querySelectorAll("video")].every((video) => video.readyState >= 2));
await page.keyboard.press(".");
await page.waitForFunction(() => {
  const [first, second] = [...document.querySelectorAll("video")].map((video) => video.currentTime);
  return first > 0 && first === second;
});
await looksRight(page, "compare");

// One clip: what was made of what, and to make it again.
await page.goto(batch);
await page.click(".card .frame >> nth=0");
await page.waitForSelector("video.clip");
assert.match(await page.textContent("table.timeline"), /generate, attempt 1/);
await looksRight(page, "job");
await page.click("text=Make it once more");
await page.waitForURL((url) => !batch.endsWith(url.pathname.split("-")[0].split("/").pop()) && url.pathname.startsWith("/jobs/"));
await page.waitForSelector("video.clip", { timeout: 120_000 });

// Phone and dark; and what is there without JavaScript.
for (const options of [{ viewport: { width: 400, height: 800 }, colorScheme: "dark" }, { javaScriptEnabled: false }]) {
  const other = await opened(options);
  await other.goto(batch);
  assert.equal(await other.locator(".card").count(), 5);
  if (options.viewport) {
    for (const path of ["/", "/submit", "/search?q=fox", "/held", "/models", "/workers", "/evals"]) {
      await other.goto(base + path);
      await looksRight(other, path);
    }
  } else {
    await other.click(".card .frame >> nth=0");
    assert.ok(await other.locator("video.clip[controls]").count());
  }
}
await browser.close();
assert.deepEqual(problems, []);
process.stdout.write("pages in a browser: all well\n");
