// Sphinx ignores terms that are numbers, but operators search for "429".
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const parseQuery = Search._parseQuery;
  Search._parseQuery = (query) => {
    const parsed = parseQuery(query);
    const searchTerms = parsed[1];
    for (const term of splitQuery(query)) if (/^\d{3}$/.test(term)) searchTerms.add(term);
    return parsed;
  };
});
