export type Kind = "png" | "json" | "text";

/** How a stranger's file may be shown, by its name; null: it is only downloaded. Nothing active is ever shown. */
export function previewKind(path: string): Kind | null {
  const suffix = path.toLowerCase().split(".").pop() ?? "";
  if (suffix === "png") return "png";
  if (suffix === "json") return "json";
  return ["txt", "log", "csv", "md", "jsonl"].includes(suffix) ? "text" : null;
}
