// Examples to start from: files of the repository's examples/, in the build.
const FILES = import.meta.glob<string>(
  ["../../../examples/digits_focal.json", "../../../examples/standard/*.json", "../../../examples/losses/*.json", "../../../examples/tables/*.json"],
  { query: "?raw", import: "default" },
);

export const EXAMPLES = Object.keys(FILES)
  .map((path) => path.replace(/^.*\/examples\//, "").replace(/\.json$/, ""))
  .sort();

export const FIRST = `{
  "name": "my first job",
  "data": {
    "source": "digits",
    "validation": 0.2,
    "pipeline": [{"op": "shuffle", "buffer_size": 1000}, {"op": "batch", "batch_size": 32}]
  },
  "model": {"component": "mlp", "config": {"hidden": [64], "outputs": 10}},
  "optimizer": "keras/Adam",
  "loss": "focal",
  "metrics": ["keras/SparseCategoricalAccuracy"],
  "training": {"epochs": 10}
}
`;

export async function readExample(name: string): Promise<string> {
  return await FILES[`../../../examples/${name}.json`]!();
}
