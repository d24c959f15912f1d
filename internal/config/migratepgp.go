package config

import (
	"bytes"
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"madmail/internal/fault"
)

// pgpFields are what a pgp_encryption check may hold, and the directives of a submission
// block that say the same.
var pgpFields = map[string]string{
	"require_encryption": "require_pgp", "allow_secure_join": "pgp_allow_secure_join",
	"passthrough_senders": "pgp_passthrough_senders", "passthrough_recipients": "pgp_passthrough_recipients",
}

// span is a directive and where it stands in the file.
type span struct {
	name     string
	from, to int // octets; to is behind the closing brace
	args     int // where the arguments begin
	line     int
	braces   bool
	block    []span
}

// spans reads directives up to the closing brace of a block, or the end.
func spans(list []token) (out []span, rest []token) {
	for len(list) > 0 {
		switch t := list[0]; {
		case t.end:
			list = list[1:]
			continue
		case t.brace("}"):
			return out, list
		}
		d := span{name: list[0].text, from: list[0].from, to: list[0].to, args: list[0].to, line: list[0].line}
		list = list[1:]
		for len(list) > 0 && !list[0].end && !list[0].brace("{") && !list[0].brace("}") {
			d.to, list = list[0].to, list[1:]
		}
		if len(list) > 0 && list[0].brace("{") {
			d.braces = true
			d.block, list = spans(list[1:])
			if len(list) > 0 {
				d.to, list = list[0].to, list[1:]
			}
		}
		out = append(out, d)
	}
	return out, nil
}

// MigratePGP rewrites the check pgp_encryption of submission blocks, as the first version
// has it, into directives of these blocks. Everything else stays as it is, comments and
// blanks included. changed is how many checks there were. A file in TOML has none. The
// error is of kind fault.Invalid.
func MigratePGP(file string, data []byte) (out []byte, changed int, err error) {
	if isTOML(file, data) {
		return data, 0, nil
	}
	env := func(string) string { return "" }
	tokens, bad := lexBlocks(filepath.Base(file), data, env)
	if bad == nil { // the parser knows what is wrong, where there is something
		_, _, bad = parseBlocks(filepath.Base(file), data, env, func(string) ([]byte, error) { return nil, nil })
	}
	if bad != nil {
		return nil, 0, fault.New(fault.Invalid, bad.Error())
	}
	// Tokens tell where they stand behind a byte order mark.
	text := bytes.TrimPrefix(data, []byte("\ufeff"))
	m := migration{data: text, eol: lineEnd(text)}
	top, _ := spans(tokens)
	for _, d := range top {
		if d.name == "submission" {
			m.said = make(map[string]bool)
			for _, x := range d.block {
				m.said[x.name] = true
			}
			for _, x := range d.block {
				m.directive(x)
			}
		}
	}
	if m.changed == 0 {
		return data, 0, nil
	}
	return append(data[:len(data)-len(text):len(data)-len(text)], m.apply()...), m.changed, nil
}

type migration struct {
	data    []byte
	eol     string
	edits   []cut
	changed int
	said    map[string]bool // directives that the present submission block has
}

// directive looks for checks in a directive of a submission block, at any depth: the
// first version had them in its routes, too. What they say goes before it.
func (m *migration) directive(d span) {
	var lines []string
	m.checks(d, &lines)
	if len(lines) == 0 {
		return
	}
	at := m.lineStart(d.from)
	indent := string(m.data[at:d.from])
	if strings.TrimSpace(indent) != "" { // the block is on one line
		at, indent = d.from, ""
	}
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(indent + l + m.eol)
	}
	m.edits = append(m.edits, cut{at, at, b.String()})
}

func (m *migration) checks(d span, lines *[]string) {
	if d.name != "check" {
		for _, x := range d.block {
			m.checks(x, lines)
		}
		return
	}
	others := false
	var found []span
	for _, x := range d.block {
		if x.name != "pgp_encryption" {
			others = true
			continue
		}
		found = append(found, x)
		m.changed++
		for _, f := range x.block {
			*lines = append(*lines, m.translate(f))
		}
		*lines = append(*lines, m.comments(x)...)
		if len(x.block) == 0 && !m.said["require_pgp"] { // it says that mail is encrypted
			m.said["require_pgp"] = true
			*lines = append(*lines, "require_pgp yes")
		}
	}
	if len(found) == 0 {
		return
	}
	if !others { // the check held nothing else
		all := span{from: d.from, to: d.to, block: found}
		*lines = append(*lines, m.comments(all)...)
		m.cut(d)
		return
	}
	for _, x := range found {
		m.cut(x)
	}
}

// translate is a field of the check as a directive; a comment where there is none or it
// is said already.
func (m *migration) translate(f span) string {
	args := strings.TrimSpace(string(m.data[f.args:f.to]))
	name, known := pgpFields[f.name]
	if !known {
		return "# pgp_encryption had: " + strings.Join(strings.Fields(f.name+" "+args), " ")
	}
	line := strings.TrimSpace(name + " " + args)
	if m.said[name] {
		return "# said already: " + strings.Join(strings.Fields(line), " ")
	}
	m.said[name] = true
	return line
}

// comments are those within a block that goes, but outside the blocks in it.
func (m *migration) comments(d span) (list []string) {
	at := d.from
	for _, x := range append(slices.Clone(d.block), span{from: d.to, to: d.to}) {
		if x.from > at {
			for line := range strings.Lines(string(m.data[at:x.from])) {
				if i := commentAt(line); i >= 0 {
					list = append(list, strings.TrimSpace(line[i:]))
				}
			}
		}
		at = x.to
	}
	return list
}

// commentAt is where a comment begins in a line between directives, or -1. A # within a
// word or in quotes begins none.
func commentAt(line string) int {
	quoted := false
	for i := range len(line) {
		switch {
		case line[i] == '"' && (i == 0 || line[i-1] != '\\'):
			quoted = !quoted
		case line[i] == '#' && !quoted && (i == 0 || strings.IndexByte(" \t", line[i-1]) >= 0):
			return i
		}
	}
	return -1
}

// cut removes a directive, and its lines where nothing else stands on them.
func (m *migration) cut(d span) {
	from, to := d.from, d.to
	start, end := m.lineStart(from), to
	for end < len(m.data) && m.data[end] != '\n' {
		end++
	}
	if rest := strings.TrimSpace(string(m.data[to:end])); strings.TrimSpace(string(m.data[start:from])) == "" && rest == "" {
		from, to = start, min(end+1, len(m.data))
	}
	m.edits = append(m.edits, cut{from, to, ""})
}

func (m *migration) lineStart(at int) int { return bytes.LastIndexByte(m.data[:at], '\n') + 1 }

func (m *migration) apply() []byte {
	// At one place, what is put in comes before what is cut.
	slices.SortStableFunc(m.edits, func(a, b cut) int { return cmp.Or(a.from-b.from, a.to-b.to) })
	return apply(m.data, m.edits)
}

// PGPMigrated says what became of a file.
type PGPMigrated struct {
	Changed bool   `json:"changed"`
	Backup  string `json:"backup"` // of the file as it was; "" when nothing was written
	File    string `json:"file"`
	Checks  int    `json:"checks"` // that were rewritten
}

// Summary is that for people.
func (p PGPMigrated) Summary() string {
	switch {
	case !p.Changed:
		return fmt.Sprintf("%s needs no change: no submission block in it has a check pgp_encryption.", p.File)
	case p.Backup == "":
		return fmt.Sprintf("%s would be changed: %d check(s).", p.File, p.Checks)
	}
	return fmt.Sprintf("%s is changed: %d check(s). As it was: %s", p.File, p.Checks, p.Backup)
}
