// Inside a `config`, completion and hover come from the catalogue's schema of the component beside it.
import type { CompletionContext, CompletionResult } from "@codemirror/autocomplete";
import { syntaxTree } from "@codemirror/language";
import type { EditorState } from "@codemirror/state";
import { hoverTooltip, type Tooltip } from "@codemirror/view";
import type { SyntaxNode } from "@lezer/common";

import type { ComponentInfo } from "../api/client";
import { visible } from "../shared/text";

type Property = { description?: string; default?: unknown; type?: string; title?: string };

function property(state: EditorState, object: SyntaxNode, name: string): string | null {
  for (const one of object.getChildren("Property")) {
    const key = one.getChild("PropertyName");
    const value = one.getChild("String");
    if (key && value && state.sliceDoc(key.from, key.to) === JSON.stringify(name)) return state.sliceDoc(value.from + 1, value.to - 1);
  }
  return null;
}

/** The component whose `config` surrounds a place. */
function around(state: EditorState, at: number, catalogue: ComponentInfo[]): ComponentInfo | null {
  for (let node: SyntaxNode | null = syntaxTree(state).resolveInner(at, -1); node; node = node.parent) {
    const key = node.name === "Property" ? node.getChild("PropertyName") : null;
    if (!key || state.sliceDoc(key.from, key.to) !== '"config"' || at <= key.to) continue;
    const name = node.parent && property(state, node.parent, "component");
    return catalogue.find((one) => one.name === name) ?? null;
  }
  return null;
}

function options(component: ComponentInfo): [string, Property][] {
  return Object.entries(((component.config_schema ?? {}) as { properties?: Record<string, Property> }).properties ?? {});
}

function summary(name: string, one: Property): string {
  const parts = [one.type ?? "", one.default === undefined ? "" : `default ${JSON.stringify(one.default)}`, one.description ?? ""];
  return visible(`${name}: ${parts.filter(Boolean).join(", ")}`);
}

export function configCompletion(catalogue: ComponentInfo[]) {
  return (context: CompletionContext): CompletionResult | null => {
    const word = context.matchBefore(/"[\w]*/);
    const component = around(context.state, context.pos, catalogue);
    if (!component || (!word && !context.explicit)) return null;
    const closed = context.state.sliceDoc(context.pos, context.pos + 1) === '"';
    return {
      from: word ? word.from : context.pos,
      to: closed ? context.pos + 1 : context.pos,
      options: options(component).map(([name, one]) => ({
        label: `"${name}"`,
        apply: `"${name}": `,
        detail: one.type,
        info: summary(name, one),
        boost: 50,
      })),
    };
  };
}

/** Of the name of a component, its documentation; of an argument, what the schema says. */
export function catalogueHover(catalogue: ComponentInfo[]) {
  return hoverTooltip((view, at): Tooltip | null => {
    const node = syntaxTree(view.state).resolveInner(at);
    const text = view.state.sliceDoc(node.from + 1, node.to - 1);
    let shown = "";
    if (node.name === "String") {
      const found = catalogue.find((one) => one.name === text);
      shown = found ? visible(`${found.kind} ${found.name}\n${found.doc ?? ""}`) : "";
    } else if (node.name === "PropertyName") {
      const component = around(view.state, at, catalogue);
      const one = component && options(component).find(([name]) => name === text);
      shown = one ? summary(...one) : "";
    }
    if (!shown) return null;
    return {
      pos: node.from,
      end: node.to,
      create: () => {
        const dom = document.createElement("div");
        dom.className = "hint";
        dom.textContent = shown;
        return { dom };
      },
    };
  });
}
