import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./app/App";
import "./app/style.css";
import { ApiProblem } from "./api/client";

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      // A refusal stays one; a service that restarts is asked again.
      retry: (count, error) => !(error instanceof ApiProblem && error.status < 500) && count < 4,
      staleTime: 1000,
    },
  },
});

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <App />
    </QueryClientProvider>
  </StrictMode>,
);
