import { describe, expect, it } from "vitest";

import { differing, flattened, ordered } from "../src/compare/differences";
import { closeness, sentences } from "../src/job/certificate";
import { previewKind } from "../src/job/previewKind";
import { section } from "../src/job/errorSections";
import { asCurl, python, shellWord } from "../src/job/snippets";
import { placeOf, places } from "../src/new/findings";

const finding = (pointer: string) => ({ pointer, code: "x", message: "", hint: "" });

describe("findings", () => {
  const text = '{"model": {"component": "mlp", "config": {"a/b": [1, 2]}},\n "training": {"epochs": 0}}';
  const at = (pointer: string) => {
    const { from, to } = placeOf(finding(pointer), places(text));
    return text.slice(from, to);
  };
  it.each([
    ["/training/epochs", '"epochs"'],
    ["/model/config/a~1b/1", "2"],
    ["/models/model/config/a~1b", '"a/b"'],
    ["/training/nothing/there", '"training"'],
    ["/nowhere", "{"],
    ["", "{"],
  ])("%s is at %s", (pointer, found) => expect(at(pointer)).toBe(found));
  it("of half a document have a place too", () => expect(places('{"training": {"epochs": ').has("/training/epochs")).toBe(true));
});

describe("snippets", () => {
  it("are Python", () => {
    expect(python({ a: null, b: [true, 1.5], c: 'say "hi"' })).toBe('{"a": None, "b": [True, 1.5], "c": "say \\"hi\\""}');
  });
  it("keep a shell from running what a name holds", () => {
    expect(shellWord("it's $(rm) `x`")).toBe("'it'\\''s $(rm) `x`'");
    expect(asCurl({ name: "'; rm -rf ~ #" }, "http://localhost:8000")).toContain(`"'\\''; rm -rf ~ #"`);
  });
});

describe("comparison", () => {
  it("shows what differs alone", () => {
    const specs = [
      { name: "a", model: { units: [1, 2] }, lr: 0.1, same: 1 },
      { name: "b", model: { units: [1, 3] }, lr: 0.1, same: 1 },
    ].map((one) => flattened(one));
    expect(differing(specs)).toEqual(["model.units"]);
  });
  it("orders numbers by size, and what is missing last", () => {
    const sorted = (down: boolean) => [undefined, "10", 9, "NaN"].sort((a, b) => ordered(a, b, down));
    expect(sorted(false)).toEqual([9, "10", "NaN", undefined]);
    expect(["b", undefined, "a"].sort((a, b) => ordered(a, b, true))).toEqual(["b", "a", undefined]);
  });
});

describe("the certificate", () => {
  it("says how close", () => {
    expect(closeness({ elements: 640, bit_equal: true })).toBe("640 values, equal bit by bit");
    expect(closeness({ values: 3, bit_equal: false, max_abs_difference: 2e-7 })).toBe("3 values, at most 2.000e-7 apart");
  });
  it("says what was compared", () => {
    const verified = {
      reload: { tolerance: 1e-5, models: { model: { keras: { weights: 4, outputs: { elements: 10, bit_equal: true } } } } },
      certify: { step: { values: 23, elements: 99, bit_equal: true } },
    };
    expect(sentences(verified)).toHaveLength(3);
    expect(sentences({})).toEqual([]);
  });
});

describe("artifacts", () => {
  it.each([
    ["a/plot.PNG", "png"], ["report.json", "json"], ["notes.txt", "text"],
    ["plot.svg", null], ["page.html", null], ["x.png.html", null], ["model.tar.gz", null], ["svg", null],
  ])("%s is shown as %s", (name, kind) => expect(previewKind(name)).toBe(kind));
});

describe("a code's section of the documentation", () => {
  it("is that code's alone", () => {
    const document = "# Errors\n\n### one\n\nFirst.\n\n### two\n\nSecond.\n\n## Why a request was refused\n\n### three\n\nThird.\n";
    expect(section(document, "two")).toBe("Second.");
    expect(section(document, "tw")).toBe("");
  });
});
