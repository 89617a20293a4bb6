// What a person does with the page, in real Chromium: `node drive.mjs URL FOLDER JOB…`.
// JOB: ids of finished jobs with hostile names. Prints what was seen as JSON; screenshots go to FOLDER.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

import { chromium } from "playwright-core";

const [url, folder, ...hostile] = process.argv.slice(2);
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PAGES = ["jobs", "new", "components", "data", "workers", "settings", "login"];
const WAIT = { timeout: 60_000 };
const seen = { steps: [], axe: [], foreign: [], refused: [], canary: [], wide: [] };

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox"] });

async function opened(options) {
  // The page forbids scripts in the page, axe's too: its text is given to the browser's own debugger.
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  page.on("request", (one) => {
    if (!one.url().startsWith(url) && !/^(data|blob):/.test(one.url())) seen.foreign.push(one.url());
  });
  page.on("console", (one) => {
    if (/Content Security Policy|Uncaught/i.test(one.text())) seen.refused.push(one.text());
  });
  page.on("pageerror", (error) => seen.refused.push(String(error)));
  page.on("dialog", (dialog) => {
    seen.canary.push(dialog.message());
    void dialog.dismiss();
  });
  return page;
}

async function look(page, name) {
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => (await globalThis.axe.run(document)).violations);
  for (const one of found.filter((each) => ["serious", "critical"].includes(each.impact))) {
    seen.axe.push(`${name}: ${one.id}: ${one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200)).join(" | ")}`);
  }
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (overflow > 0) seen.wide.push(`${name}: ${overflow} px too wide`);
  if (await page.evaluate(() => globalThis.canary !== undefined)) seen.canary.push(name);
}

async function photograph(page, name) {
  await page.screenshot({ path: path.join(folder, `${name}.png`) });
}

async function submits(page) {
  await page.goto(`${url}/new`);
  await page.getByLabel("name").fill("seen from the page");
  await page.getByLabel("epochs").fill("60");
  await page.getByText("The service accepts this spec.").waitFor(WAIT);
  await page.getByRole("textbox", { name: "Job spec as JSON" }).waitFor(WAIT);
  await look(page, "new");
  await photograph(page, "new");
  // A wrong value is found at its place, while it is typed.
  await page.getByLabel("priority").fill("500");
  await page.getByText("The service would refuse this spec.").waitFor(WAIT);
  await page.locator(".cm-lintRange-error").first().waitFor(WAIT);
  seen.steps.push("a finding stands at its place");
  await page.getByLabel("priority").fill("5");
  await page.getByText("The service accepts this spec.").waitFor(WAIT);
  // By keyboard alone.
  await page.getByRole("button", { name: "Submit" }).focus();
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/jobs\/job_/, WAIT);
  seen.job = page.url().split("/").pop().split("?")[0];
  seen.steps.push("submitted");
  await page.locator(".chart canvas").first().waitFor(WAIT);
  seen.liveState = await page.locator("header .state").first().textContent();
  seen.steps.push("a curve is drawn");
  await page.locator(".state-succeeded").first().waitFor(WAIT);
  seen.steps.push("succeeded, without a reload of the page");
}

async function opensFinished(page) {
  await page.goto(`${url}/jobs/${seen.job}`);
  await page.locator(".chart canvas").first().waitFor(WAIT);
  await look(page, "job");
  await photograph(page, "job");
  await page.locator(".chart details summary").first().click();
  await page.locator(".chart table td").first().waitFor(WAIT);
  await page.getByRole("tab", { name: "Curves" }).focus();
  for (const name of ["Events", "Logs", "Spec", "Diagnostics", "Certificate", "Checkpoints", "Artifacts"]) {
    await page.keyboard.press("ArrowRight");
    await page.getByRole("tab", { name, selected: true }).waitFor(WAIT);
    await page.waitForLoadState("networkidle");
    await look(page, `job, ${name}`);
    if (name === "Certificate") {
      await page.getByText("was loaded again and compared").waitFor(WAIT);
      await photograph(page, "certificate");
    }
  }
  const link = page.locator('a[href$="/artifacts/model.tar.gz"]');
  const [download] = await Promise.all([page.waitForEvent("download"), link.click()]);
  seen.downloaded = download.suggestedFilename();
  seen.steps.push("all parts of the finished job");
}

async function compares(page) {
  await page.goto(`${url}/jobs`);
  await page.getByRole("checkbox", { name: "Choose all" }).check();
  for (const name of await page.getByRole("checkbox", { name: "Choose <img" }).all()) await name.uncheck();
  await page.getByRole("button", { name: "Compare" }).click();
  await page.locator(".chart canvas").first().waitFor(WAIT);
  await look(page, "compare");
  await photograph(page, "compare");
  seen.steps.push("compared");
}

async function looksAround(options, suffix) {
  const page = await opened(options);
  for (const name of [...PAGES, ...hostile.map((id) => `jobs/${id}`), `jobs/${seen.job}`]) {
    await page.goto(`${url}/${name}`);
    await page.getByRole("heading", { level: 1 }).waitFor(WAIT);
    await page.waitForLoadState("networkidle").catch(() => {});
    await look(page, `${name}${suffix}`);
    if (!name.includes("/") && name !== "new") await photograph(page, `${name}${suffix}`);
  }
  await page.context().close();
}

try {
  const page = await opened({});
  await submits(page);
  await opensFinished(page);
  await compares(page);
  for (const id of hostile) {
    await page.goto(`${url}/jobs/${id}`);
    await page.getByRole("heading", { level: 1 }).waitFor(WAIT);
    seen.hostileTitle = await page.getByRole("heading", { level: 1 }).textContent();
    await page.getByRole("tab", { name: "Logs" }).click();
    await page.getByText(/of [1-9]\d* lines/).waitFor(WAIT);
    seen.hostileLog = await page.locator(".logs").textContent();
  }
  await looksAround({ colorScheme: "light" }, "");
  await looksAround({ colorScheme: "dark", viewport: { width: 360, height: 740 } }, "-dark-360");
} catch (error) {
  seen.error = String(error.stack ?? error);
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
