// The report in a real browser: nothing is loaded or run that is not its own, the viewer finds and shows every decision,
// 100 000 rows stay quick, and it can be used by keyboard and read aloud.
import { AxeBuilder } from "@axe-core/playwright";
import { expect, test } from "@playwright/test";
import { fileURLToPath } from "node:url";

const page_of = (name) => new URL(`../../target/report-preview/${name}.html`, import.meta.url).href;
const shots = fileURLToPath(new URL("../../target/report-preview/", import.meta.url));
const ready = (page) => page.waitForSelector("#viewer[data-ready]");
const unpacked = (page) => page.waitForSelector("#viewer[data-texts=ready]");

// Requests, dialogs, errors and refusals of the policy, from before the page begins.
async function watched(page) {
  const seen = { requests: [], wrong: [] };
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("dialog", (dialog) => {
    seen.wrong.push(`dialog ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("pageerror", (error) => seen.wrong.push(String(error)));
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && seen.wrong.push(message.text()));
  return seen;
}

const shown = (page) => page.locator("#viewer").getAttribute("data-matches").then(Number);
// After a change of the filters has been applied.
async function settled(page, act) {
  await page.evaluate(() => delete document.getElementById("viewer").dataset.matches);
  await act();
  await page.waitForSelector("#viewer[data-matches]");
  return shown(page);
}

test("opens from disk without a request, an error or a refusal", async ({ page }) => {
  const seen = await watched(page);
  await page.goto(page_of("report"));
  await unpacked(page);
  expect(seen.wrong).toEqual([]);
  expect(seen.requests).toEqual([page_of("report")]);
  await expect(page.locator("#viewer .tabs button")).toHaveText([/Role-play \(2.520\)/, /Coordination games \(720\)/, /Tool usage \(360\)/]);
});

test("a hostile run runs nothing, wherever its texts appear", async ({ page }) => {
  const seen = await watched(page);
  await page.goto(page_of("hostile"));
  await unpacked(page);
  for (const tab of await page.locator("#viewer .tabs button").all()) {
    await settled(page, () => tab.click());
    for (let i = 0; i < 6; i++) {
      await page.locator("#viewer .list").press("ArrowDown");
      await expect(page.locator("#viewer .wrote .said").first()).toContainText("<script>alert(1)</script>");
    }
    const rounds = page.locator("#viewer .rounds button, #viewer .board button");
    if ((await rounds.count()) > 1) await rounds.nth((await rounds.count()) - 1).click();
    const compare = page.getByLabel("Show what changed");
    if (await compare.count()) await compare.selectOption({ index: 1 });
    await page.waitForTimeout(50);
  }
  for (const chart of await page.locator("svg.chart:visible").all()) {
    await chart.focus();
    await chart.press("End");
  }
  for (const button of await page.locator(".legend button").all()) await button.click();
  expect(seen.wrong).toEqual([]);
  expect(seen.requests).toEqual([page_of("hostile")]);
  expect(await page.locator("img, iframe, object, embed, link, base, form[action]").count()).toBe(0);
  const active = await page.evaluate(() => [...document.querySelectorAll("*")].filter((e) => [...e.attributes].some((a) => a.name.startsWith("on"))).length);
  expect(active).toBe(0);
});

test("the policy stops a script and a handler that got in all the same", async ({ page }) => {
  await page.goto(page_of("report"));
  await ready(page);
  const ran = await page.evaluate(async () => {
    const script = document.createElement("script");
    try { script.textContent = "window.broken = 1"; } catch { /* trusted types */ }
    document.body.append(script);
    let sink = "open";
    try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.broken = 2'>"); } catch { sink = "shut"; }
    await new Promise((go) => setTimeout(go, 200));
    return [window.broken ?? 0, sink];
  });
  expect(ran).toEqual([0, "shut"]);
});

test("choose by facet, outcome, course and text; the counts agree with the rows", async ({ page }) => {
  await page.goto(page_of("report"));
  await unpacked(page);
  const all = await shown(page);
  const by = async (key, label) => settled(page, () => page.locator(`#viewer select[data-key=${key}]`).selectOption(label));
  let sum = 0;
  for (const option of await page.locator("#viewer select[data-key=outcome] option").all()) {
    const label = await option.textContent();
    if (label !== "all") sum += await by("outcome", { label });
  }
  expect(sum).toBe(all);
  await by("outcome", { label: "all" });
  expect(await by("variant", { label: "DPO" })).toBeLessThan(all);
  expect(await by("round", { label: "3" })).toBeGreaterThan(0);
  await settled(page, () => page.getByRole("button", { name: "Reset" }).click());
  expect(await shown(page)).toBe(all);
  // Each invented text ends in a number of its own: it finds exactly one decision.
  const text = await page.locator("#viewer .wrote .said").first().textContent();
  const own = text.match(/\d{6,}/)[0];
  expect(await settled(page, () => page.getByPlaceholder("in reasoning and answers").fill(own))).toBe(1);
  await expect(page.locator("#viewer mark")).toHaveText(own);
  expect(await settled(page, () => page.getByPlaceholder("in reasoning and answers").fill("no such words"))).toBe(0);
  await expect(page.locator("#viewer .status")).toHaveText("No decision matches.");
});

test("a trajectory: prompt, reasoning, answer, reward; its first violation; what changed since", async ({ page }) => {
  await page.goto(page_of("report"));
  await unpacked(page);
  await settled(page, () => page.locator("#viewer select[data-key=course]").selectOption("later"));
  const name = await page.locator("#viewer .detail h3").textContent();
  const jump = page.locator("#viewer .tip-jump");
  const round = Number((await jump.textContent()).match(/round (\d+)/)[1]);
  expect(round).toBeGreaterThan(1);
  await jump.click();
  await expect(page.locator("#viewer .verdict")).toHaveText(new RegExp(`broke the rule in round ${round}`));
  await expect(page.locator("#viewer .asked .said").nth(0)).toHaveText(`You are the agent of ${name}.`);
  const told = await page.locator("#viewer .asked .said").nth(1).textContent();
  expect(told.match(/Round \d+:/g).length).toBe(round - 1);
  await expect(page.locator("#viewer .wrote h4")).toHaveText(["Reasoning", "Answer", "Facts"]);
  await expect(page.locator("#viewer .facts")).toContainText("Reward10");
  const now = await page.locator("#viewer .wrote .said").first().textContent();
  await page.getByLabel("Show what changed").selectOption({ index: 1 });
  const said = page.locator("#viewer .wrote .said").first();
  await expect(said.locator("ins").first()).toBeVisible();
  const kept = await said.evaluate((node) => [...node.childNodes].filter((n) => n.nodeName !== "DEL").map((n) => n.textContent).join(""));
  expect(kept).toBe(now);
});

test("agents of a game side by side, round under round", async ({ page }) => {
  await page.goto(page_of("report"));
  await unpacked(page);
  await settled(page, () => page.getByRole("button", { name: /Coordination games/ }).click());
  await expect(page.locator("#viewer .cards")).toHaveCount(3);
  for (const cards of await page.locator("#viewer .cards").all()) await expect(cards.locator(".card")).toHaveCount(8);
  const said = await page.locator("#viewer .round-head").first().textContent();
  const colluders = Number(said.match(/(\d) of 8/)[1]);
  await expect(page.locator("#viewer .cards").first().locator(".card.broke")).toHaveCount(colluders);
  await page.locator("#viewer .cards").nth(1).locator(".card").nth(4).click();
  await expect(page.locator("#viewer .verdict")).toContainText("in round 2, agent 5");
  await expect(page.locator("#viewer .asked .said").first()).toContainText("agent 5.");
});

test("charts answer to pointer, keys and legend", async ({ page }) => {
  await page.setViewportSize({ width: 1400, height: 900 });
  await page.goto(page_of("report"));
  const chart = page.locator("figure .wide svg.chart").first();
  await chart.scrollIntoViewIfNeeded();
  await chart.hover();
  await expect(page.locator(".tip")).toBeVisible();
  await expect(page.locator(".tip")).toContainText(/DPO: [\d.]+ \([\d.]+ to [\d.]+\)/);
  await page.mouse.move(0, 0);
  await expect(page.locator(".tip")).toBeHidden();
  await chart.focus();
  await page.keyboard.press("Home");
  await expect(page.locator(".tip b")).toHaveText("Round 1");
  await page.keyboard.press("ArrowRight");
  await expect(page.locator(".tip b")).toHaveText("Round 2");
  await expect(page.locator("body > .spoken")).toContainText("Round 2: ");
  const figure = page.locator("figure").first();
  await figure.getByRole("button", { name: "DPO", exact: true }).click();
  await expect(chart.locator("g[data-label=DPO]")).toBeHidden();
  await chart.focus();
  await page.keyboard.press("End");
  await expect(page.locator(".tip")).not.toContainText("DPO");
  await page.keyboard.press("Escape");
  await expect(page.locator(".tip")).toBeHidden();
});

test("everything can be reached by keyboard alone", async ({ page }) => {
  await page.goto(page_of("report"));
  await unpacked(page);
  await page.locator("#viewer .tabs button").first().focus();
  const reached = new Set();
  for (let i = 0; i < 40; i++) {
    reached.add(await page.evaluate(() => document.activeElement.closest(".list, .filters, .jumps, .rounds, .wrote, .asked")?.className ?? ""));
    await page.keyboard.press("Tab");
  }
  for (const part of ["filters", "list", "jumps", "rounds", "wrote", "asked"]) expect([...reached]).toContain(part);
  await page.locator("#viewer .list").focus();
  const first = await page.locator("#viewer .detail h3").textContent();
  await page.keyboard.press("PageDown");
  await expect(page.locator("#viewer .detail h3")).not.toHaveText(first);
  const item = await page.locator("#viewer .list").getAttribute("aria-activedescendant");
  await expect(page.locator(`#${item}`)).toHaveAttribute("aria-selected", "true");
  await page.locator("#viewer .rounds button[aria-pressed=true]").focus();
  await page.keyboard.press("ArrowRight");
  await expect(page.locator("#viewer .rounds button").nth(1)).toBeFocused();
});

for (const scheme of ["light", "dark"]) {
  for (const width of [390, 1400]) {
    test(`no fault of accessibility, no sideways scrolling: ${scheme}, ${width} px`, async ({ browser }) => {
      // The checker injects a script, which the policy would stop.
      const context = await browser.newContext({ colorScheme: scheme, viewport: { width, height: 900 }, bypassCSP: true });
      const page = await context.newPage();
      await page.goto(page_of("report"));
      await unpacked(page);
      for (const tab of [0, 1, 2]) {
        await settled(page, () => page.locator("#viewer .tabs button").nth(tab).click());
        await page.waitForTimeout(100);
        await page.locator("#traces").evaluate((e) => e.scrollIntoView());
        await page.screenshot({ path: `${shots}${scheme}-${width}-${tab}.png` });
        const found = await new AxeBuilder({ page }).analyze();
        expect(found.violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 160))])).toEqual([]);
        expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
      }
      await context.close();
    });
  }
}

test("without JavaScript it reads whole", async ({ browser }) => {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const page = await context.newPage();
  await page.goto(page_of("report"));
  await expect(page.locator("svg.chart:visible")).not.toHaveCount(0);
  await expect(page.locator("#viewer")).toContainText("needs JavaScript");
  await expect(page.locator("table").first()).toBeVisible();
  await context.close();
});

test("100 000 rows open in 2 s and answer in 100 ms", async ({ page }) => {
  const begun = Date.now();
  await page.goto(page_of("large"), { waitUntil: "commit" });
  await ready(page);
  const opened = Date.now() - begun;
  await unpacked(page);
  const texts = Date.now() - begun;
  const times = [];
  const time = async (act) => {
    const matches = await settled(page, act);
    times.push([Number(await page.locator("#viewer").getAttribute("data-filter-ms")), matches]);
  };
  const input = page.getByPlaceholder("in reasoning and answers");
  await time(() => page.locator("#viewer select[data-key=outcome]").selectOption("1"));
  await time(() => page.locator("#viewer select[data-key=variant]").selectOption({ label: "DPO" }));
  for (const words of ["t", "the", "supervisor asked", "zzz", "nobody looks", "9", "1234", ""]) await time(() => input.fill(words));
  await time(() => page.locator("#viewer select[data-key=course]").selectOption("later"));
  console.log(`opened in ${opened} ms, all texts unpacked in ${texts} ms; filters, ms and matches: ${JSON.stringify(times)}`);
  expect(opened).toBeLessThan(2000);
  for (const [ms] of times) expect(ms).toBeLessThan(100);
  const nodes = await page.locator("#viewer .item").count();
  expect(nodes).toBeLessThan(60);
});
