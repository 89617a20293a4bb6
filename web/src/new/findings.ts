// Findings of `validate` at their place in the text that is edited.
import { jsonLanguage } from "@codemirror/lang-json";
import type { SyntaxNode } from "@lezer/common";

import type { Finding } from "../api/client";

export interface Span {
  from: number;
  to: number;
}

function textOf(node: SyntaxNode, text: string): string {
  return text.slice(node.from, node.to);
}

function unquoted(name: string): string {
  try {
    return String(JSON.parse(name));
  } catch {
    return name;
  }
}

function values(node: SyntaxNode): SyntaxNode[] {
  const found: SyntaxNode[] = [];
  for (let child = node.firstChild; child; child = child.nextSibling) {
    if (!["[", "]", ",", "⚠"].includes(child.name)) found.push(child);
  }
  return found;
}

/** Where each JSON pointer of a text lies: the name of a property, the whole of an item. */
export function places(text: string): Map<string, Span> {
  const found = new Map<string, Span>();
  const visit = (node: SyntaxNode, pointer: string) => {
    if (node.name === "Array") {
      values(node).forEach((value, index) => {
        found.set(`${pointer}/${index}`, { from: value.from, to: value.to });
        visit(value, `${pointer}/${index}`);
      });
    } else if (node.name === "Object") {
      for (const property of node.getChildren("Property")) {
        const name = property.getChild("PropertyName");
        if (!name) continue;
        const step = unquoted(textOf(name, text)).replaceAll("~", "~0").replaceAll("/", "~1");
        found.set(`${pointer}/${step}`, { from: name.from, to: name.to });
        const value = property.lastChild;
        if (value && value.name !== "PropertyName") visit(value, `${pointer}/${step}`);
      }
    }
  };
  const top = jsonLanguage.parser.parse(text).topNode.firstChild;
  if (top) {
    found.set("", { from: top.from, to: Math.min(top.to, top.from + 1) });
    visit(top, "");
  }
  return found;
}

/** The plural places of the canonical form, as a short spec writes them: /losses/model/config → /loss/config. */
const SINGULAR: [RegExp, string][] = [
  [/^\/models\/[^/]+/, "/model"],
  [/^\/losses\/[^/]+/, "/loss"],
  [/^\/optimizers\/[^/]+/, "/optimizer"],
  [/^\/metrics\/[^/]+(?=\/\d)/, "/metrics"],
];

/** The place of a finding, or of the nearest part of the document around it that is in the text. */
export function placeOf(finding: Finding, known: Map<string, Span>): Span {
  const forms = [finding.pointer, ...SINGULAR.map(([plural, short]) => finding.pointer.replace(plural, short))];
  let best = "";
  for (const form of forms) {
    for (let pointer = form; pointer; pointer = pointer.slice(0, pointer.lastIndexOf("/"))) {
      if (known.has(pointer)) {
        if (pointer.length > best.length) best = pointer;
        break;
      }
    }
  }
  return known.get(best) ?? { from: 0, to: 0 };
}
