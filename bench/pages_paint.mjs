// First contentful paint of a page, and how long the frames of a scroll to its end take. Arguments: URL, browser.
import { createRequire } from "node:module";

const { chromium } = createRequire(`${process.cwd()}/`)("playwright-core");
const [url, executablePath] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--no-first-run"] });
const paints = [];
let frames;
for (let run = 0; run < 5; run++) {
  const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 } })).newPage();
  await page.goto(url, { waitUntil: "load" });
  paints.push(
    await page.evaluate(
      () =>
        new Promise((painted) =>
          new PerformanceObserver((list) => {
            for (const { name, startTime } of list.getEntries()) if (name === "first-contentful-paint") painted(startTime);
          }).observe({ type: "paint", buffered: true }),
        ),
    ),
  );
  if (run === 4)
    frames = await page.evaluate(async () => {
      const taken = [];
      let last = await new Promise(requestAnimationFrame);
      while (scrollY + innerHeight < document.documentElement.scrollHeight - 1) {
        scrollBy(0, 60);
        const now = await new Promise(requestAnimationFrame);
        taken.push(now - last);
        last = now;
      }
      return taken.sort((a, b) => a - b);
    });
  await page.close();
}
await browser.close();
const round = (value) => Math.round(value * 10) / 10;
const at = (share) => round(frames[Math.min(frames.length - 1, Math.floor(frames.length * share))]);
paints.sort((a, b) => a - b);
console.log(JSON.stringify({ first_paint_ms: round(paints[2]), frames: frames.length, p50_ms: at(0.5), p95_ms: at(0.95) }));
