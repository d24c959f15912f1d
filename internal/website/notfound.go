package website

import "net/http"

// NotFound is the site's answer to what it does not know, for those who answer in its
// place.
func NotFound(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusNotFound, "Not found") }
