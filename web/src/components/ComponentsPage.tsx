export default function ComponentsPage() {
  return <h1>ComponentsPage</h1>;
}
