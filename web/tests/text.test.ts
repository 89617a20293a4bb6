import { describe, expect, it } from "vitest";

import { bytes, logText, number, visible, withoutAnsi } from "../src/shared/text";
import { duration, eta } from "../src/shared/time";

describe("log lines", () => {
  it.each([
    ["\u001b[1;31mred\u001b[0m", "red"],
    ["\u001b]0;title\u0007after", "after"],
    ["\u001b]8;;http://other.example\u001b\\link\u001b]8;;\u001b\\", "link"],
    ["\u001b]52;c;c3RvbGVu\u0007", ""],
    ["\u001bPq#0;2;0\u001b\\x", "x"],
    ["\u009b2Jgone", "gone"],
    ["\u001b(Bplain\u001bc", "plain"],
    ["10 %\r50 %\r100 %\r", "100 %"],
  ])("lose escape sequences: %j", (text, plain) => expect(withoutAnsi(text)).toBe(plain));

  it("show what is left of control characters", () => {
    expect(logText("a\u0000b\u0008\u007f\u0085\u001b")).toBe("a␀b␈␡\\x85␛");
    expect(logText("tab\tstays")).toBe("tab\tstays");
  });
});

describe("names", () => {
  it("cannot be written backwards or be invisible", () => {
    expect(visible("gpj.\u202eexe\u200b")).toBe("gpj.\\u202eexe\\u200b");
  });
  it("are what they are otherwise", () => expect(visible("Grüße 模型 <b>")).toBe("Grüße 模型 <b>"));
});

describe("numbers and times", () => {
  it.each([[0, "0 s"], [59.6, "1 min"], [250, "4 min 10 s"], [7500, "2 h 5 min"], [273_600, "3 d 4 h"]])("%d seconds", (seconds, text) =>
    expect(duration(seconds)).toBe(text),
  );
  it.each([
    [null, ""], [NaN, ""], [3, "a few seconds left"], [41, "about 45 s left"], [183, "about 3 min left"], [5000, "about 1 h 23 min left"],
  ])("an ETA of %s says about", (seconds, text) => expect(eta(seconds)).toBe(text));
  it.each([[12, "12"], [0.12345, "0.1235"], [1e-9, "1.000e-9"], ["NaN", "NaN"], [2.5e8, "2.500e+8"]])("%s", (value, text) => expect(number(value)).toBe(text));
  it.each([[0, "0 B"], [2048, "2.0 KiB"], [445_573, "435 KiB"]])("%d bytes", (count, text) => expect(bytes(count)).toBe(text));
});
