// The JSON editor, with its findings. Loaded when the page is opened: it is the largest part of the whole page.
import { jsonLanguage } from "@codemirror/lang-json";
import { setDiagnostics, type Diagnostic } from "@codemirror/lint";
import { EditorView, keymap } from "@codemirror/view";
import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { indentWithTab } from "@codemirror/commands";
import { tags } from "@lezer/highlight";
import { basicSetup } from "codemirror";
import { jsonSchema } from "codemirror-json-schema";
import { useEffect, useRef } from "react";

import type { ComponentInfo, Finding } from "../api/client";
import { catalogueHover, configCompletion } from "./configCompletion";
import { placeOf, places } from "./findings";
import type { Schema } from "./schema";

interface Props {
  text: string;
  onChange: (text: string) => void;
  schema: Schema;
  catalogue: ComponentInfo[];
  findings: Finding[];
}

const COLOURS = syntaxHighlighting(
  HighlightStyle.define([
    { tag: tags.propertyName, color: "var(--accent)" },
    { tag: tags.string, color: "var(--good)" },
    { tag: [tags.number, tags.bool, tags.null], color: "var(--warn)" },
  ]),
);
const THEME = EditorView.theme({
  "&": { backgroundColor: "var(--back)", color: "var(--text)" },
  ".cm-content": { caretColor: "var(--text)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  ".cm-gutters": { backgroundColor: "var(--raised)", color: "var(--quiet)", borderRight: "1px solid var(--line)" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "#8882" },
  ".cm-tooltip": { backgroundColor: "var(--raised)", color: "var(--text)", border: "1px solid var(--line)", maxWidth: "40rem" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": { background: "#5a8fdc55 !important" },
});

/** Tab leaves the editor, unless Escape went before it is off: the keyboard must get out. */
const KEYS = keymap.of([{ key: "Ctrl-]", run: indentWithTab.run! }]);

export default function Editor({ text, onChange, schema, catalogue, findings }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  const changed = useRef(onChange);
  changed.current = onChange;

  useEffect(() => {
    const made = new EditorView({
      doc: view.current?.state.doc.toString() ?? text,
      parent: host.current!,
      extensions: [
        basicSetup,
        KEYS,
        jsonSchema(schema as never),
        jsonLanguage.data.of({ autocomplete: configCompletion(catalogue) }),
        catalogueHover(catalogue),
        COLOURS,
        THEME,
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ "aria-label": "Job spec as JSON" }),
        EditorView.updateListener.of((update) => {
          if (update.docChanged) changed.current(update.state.doc.toString());
        }),
      ],
    });
    view.current = made;
    made.scrollDOM.tabIndex = 0;
    return () => made.destroy();
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [schema, catalogue]);

  useEffect(() => {
    const made = view.current;
    if (!made || made.state.doc.toString() === text) return;
    made.dispatch({ changes: { from: 0, to: made.state.doc.length, insert: text } });
  }, [text]);

  useEffect(() => {
    const made = view.current;
    if (!made) return;
    const known = places(made.state.doc.toString());
    const shown: Diagnostic[] = findings.map((one) => ({
      ...placeOf(one, known),
      severity: "error",
      source: one.code,
      message: [one.message, one.hint].filter(Boolean).join("\n"),
    }));
    made.dispatch(setDiagnostics(made.state, shown));
  }, [findings]);

  return <div className="editor" ref={host} />;
}
