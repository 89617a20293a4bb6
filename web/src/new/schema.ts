// The schema that the editor completes from: that of the service's specs, with the names that the catalogue has now.
import type { ComponentInfo } from "../api/client";
import { request } from "../api/client";

export type Schema = Record<string, unknown>;
interface Document {
  components: { schemas: Record<string, Schema> };
}

/** Which kinds a `component` may be in each part of the document; without kinds: any. */
const KINDS: Record<string, string[]> = {
  SpecModelSpec: ["model"],
  SpecLossSpec: ["loss"],
  SpecOptimizerSpec: ["optimizer"],
  SpecMetricSpec: ["metric"],
  SpecGradientSpec: ["gradient_transform"],
  SpecReferenceFields: ["source", "step", "evaluator", "callback", "dataset_function"],
};

export async function readSchema(): Promise<Document> {
  return await request<Document>("GET", "/openapi.json");
}

/** A schema of its own, with names of components where they may stand. */
export function editorSchema(document: Document, catalogue: ComponentInfo[]): Schema {
  const all = document.components.schemas;
  const parts: Record<string, Schema> = {};
  for (const [name, schema] of Object.entries(all)) {
    if (name.startsWith("Spec")) parts[name] = KINDS[name] ? named(schema, catalogue, KINDS[name]) : schema;
  }
  const root = all.JobSpecInput ?? {};
  const short: Record<string, string> = { model: "model", loss: "loss", optimizer: "optimizer", step: "step" };
  const properties = Object.fromEntries(
    Object.entries((root.properties ?? {}) as Record<string, Schema>).map(([name, schema]) => {
      const kind = short[name];
      return [name, kind && Array.isArray(schema.anyOf) ? { ...schema, anyOf: [names(catalogue, [kind]), ...schema.anyOf] } : schema];
    }),
  );
  return { ...root, properties, components: { schemas: parts } };
}

function names(catalogue: ComponentInfo[], kinds: string[]): Schema {
  const found = catalogue.filter((one) => kinds.includes(one.kind)).map((one) => one.name);
  return { type: "string", enum: [...new Set(found)] };
}

function named(schema: Schema, catalogue: ComponentInfo[], kinds: string[]): Schema {
  const properties = (schema.properties ?? {}) as Record<string, Schema>;
  if (!properties.component) return schema;
  const component = { description: String(properties.component.description ?? "A name of the catalogue."), anyOf: [names(catalogue, kinds), { type: "string" }] };
  return { ...schema, properties: { ...properties, component } };
}
