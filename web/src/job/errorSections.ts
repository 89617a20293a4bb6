// docs/errors.md, a section for each code.

/** The text of a code's section of docs/errors.md, which the page carries. */
export function section(document: string, code: string): string {
  const found = document.split(/^### /m).find((one) => one.startsWith(`${code}\n`));
  return found ? found.slice(code.length).replace(/^## .*/ms, "").trim() : "";
}
