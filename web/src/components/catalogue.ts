// The catalogue, all pages of it.
import { api, data, type ComponentInfo } from "../api/client";

export async function readCatalogue(): Promise<ComponentInfo[]> {
  const found: ComponentInfo[] = [];
  let after: string | undefined;
  do {
    const page = await data(api.GET("/v1/components", { params: { query: { limit: 200, ...(after ? { after } : {}) } } }));
    found.push(...page.data);
    after = page.next ?? undefined;
  } while (after);
  return found;
}

type Schema = { properties?: Record<string, { default?: unknown }>; required?: string[] };

/** A reference with the config that must be given, to copy into a spec. */
export function exampleOf(component: ComponentInfo): unknown {
  const schema = (component.config_schema ?? {}) as Schema;
  const properties = schema.properties ?? {};
  const config = Object.fromEntries(
    Object.entries(properties)
      .filter(([name, property]) => schema.required?.includes(name) || property.default !== undefined)
      .map(([name, property]) => [name, property.default ?? null]),
  );
  return Object.keys(config).length ? { component: component.name, config } : component.name;
}
