// Package route knows which paths of the HTTP listeners belong to what, by the first
// part of a path. Who gives out names below "/" (the paths of the operators, the slugs of
// contact links) asks here, so that no name hides a page or is hidden by one.
package route

import "strings"

// owner says whose a first part is.
type owner uint8

const (
	program owner = iota // a door: nothing else is ever shown there
	file                 // files that a site usually has
	movable              // where a door is unless the operator moves it
	page                 // a page of the site, with or without ".html"
)

// first are the first parts of paths that belong to something, whether it is switched on,
// and built in, or not: what comes later must not find its place taken.
var first = map[string]owner{
	"__proxy": program, "debug": program, "derp": program, "generate_204": program, "inv": program, "madmail": program,
	"metrics": program, "mxdeliv": program, "new": program, "ping": program, "qr": program, "relay": program, "share": program,
	"webimap": program, "websmtp": program,

	".well-known": file, "app": file, "docs": file, "mail": file, // with some paths of the program among them
	"app.js": file, "favicon.ico": file, "index.html": file, "logo.svg": file, "main.css": file, "main.js": file, "qrcode.min.js": file, "robots.txt": file,
	"translations.js": file,

	"admin": movable, "api": movable,

	"index": page, "info": page, "security": page, "deploy": page, "invite": page, "docs_index": page, "admin_api_docs": page, "admin_docs": page, "api_docs": page,
	"general_docs": page, "serve_docs": page, "database_docs": page, "docker_docs": page, "relay_docs": page, "domain_docs": page, "tls_docs": page,
	"contact_share": page, "contact_share_success": page, "contact_view": page,
}

func ownerOf(part string) (owner, bool) {
	part = strings.ToLower(part)
	if o, ok := first[part]; ok {
		return o, true
	}
	if name, html := strings.CutSuffix(part, ".html"); html && first[name] == page {
		return page, true
	}
	return 0, false
}

// First is the first part of a path: "inv" of "/inv/abc".
func First(path string) string {
	part, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return part
}

// Taken reports whether a first part belongs to anything, whatever the case of its letters.
func Taken(part string) bool {
	_, ok := ownerOf(part)
	return ok
}

// Door reports whether a first part belongs to a door that cannot be moved: no file of a
// site is shown there.
func Door(part string) bool {
	o, ok := ownerOf(part)
	return ok && o == program
}

// Fixed reports whether a first part belongs to a door that cannot be moved, or to a file
// that a site usually has: no door can be put there.
func Fixed(part string) bool {
	o, ok := ownerOf(part)
	return ok && (o == program || o == file)
}
