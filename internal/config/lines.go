package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"unicode"

	"madmail/internal/fault"
	"madmail/internal/safefile"
)

// Line is a key and its new value; without a value its line becomes a comment.
type Line struct{ Key, Value string }

// Edit changes top-level lines of the file at path and nothing else: comments, order
// and the other lines stay. It works for both forms. A copy of the old file stays
// beside it as .bak.
//
// Errors: fault.NotFound without a file; fault.Invalid when the new text would not be
// good, or the keys stand in a block or span lines: then nothing is changed.
func Edit(path string, lines ...Line) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return fault.WithHint(fault.Newf(fault.NotFound, "there is no configuration at %q", path), `"madmail install" writes one; --config names another`)
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "config")
	}
	info, err := os.Stat(path)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "config")
	}
	form := isTOML(path, old)
	text := edited(old, form, lines)
	if bytes.Equal(text, old) {
		return nil
	}
	var c *Config
	var problems []Problem
	if form {
		c, problems = Parse(path, text)
	} else {
		c, problems = ParseBlocks(path, text, os.Getenv, os.ReadFile)
	}
	if len(problems) > 0 {
		return fault.WithHint(fault.Wrap(fault.Invalid, problems[0], "config"), "nothing was changed; change the file by hand")
	}
	for _, l := range lines {
		if got := c.text(l.Key); got != l.Value {
			return fault.WithHint(fault.Newf(fault.Invalid, "%s: the file says %s elsewhere, in a block or a table", path, l.Key), fmt.Sprintf("nothing was changed; set %s to %q by hand", l.Key, l.Value))
		}
	}
	// A link stays one.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if err := safefile.Write(path+".bak", old, info.Mode().Perm()); err != nil {
		return err
	}
	return safefile.Write(path, text, info.Mode().Perm())
}

// edited returns the text with other lines.
func edited(old []byte, form bool, lines []Line) []byte {
	write := func(l Line) string {
		if form {
			return fmt.Sprintf("%s = %s", l.Key, quote(l.Value))
		}
		return l.Key + " " + blockWord(l.Value)
	}
	done := make(map[string]bool)
	var out []string
	insert := -1         // where top-level lines may still be added: before the first table
	depth, open := 0, "" // of blocks, and the mark that ends a text of several lines
	all := strings.SplitAfter(string(old), "\n")
	for _, raw := range all {
		line := strings.TrimSpace(raw)
		switch {
		case form && open != "":
			if strings.Count(line, open)%2 == 1 {
				open = ""
			}
			out = append(out, raw)
			continue
		case form && strings.HasPrefix(line, "[") && insert < 0:
			insert = len(out)
		}
		if top := insert < 0 && depth == 0; top && !strings.HasPrefix(line, "#") {
			word := line
			if i := strings.IndexFunc(line, func(r rune) bool { return unicode.IsSpace(r) || r == '=' }); i >= 0 {
				word = line[:i]
			}
			word = strings.Trim(word, `"'`)
			for _, l := range lines {
				if l.Key != word {
					continue
				}
				if l.Value == "" || done[l.Key] {
					raw = "# " + raw
					break
				}
				done[l.Key] = true
				end := ""
				if strings.HasSuffix(raw, "\n") {
					end = "\n"
				}
				raw = write(l) + comment(raw) + end
			}
		}
		out = append(out, raw)
		if form {
			for _, mark := range []string{`"""`, "'''"} {
				if strings.Count(line, mark)%2 == 1 {
					open = mark
				}
			}
		} else if !strings.HasPrefix(line, "#") {
			depth += strings.Count(line, "{") - strings.Count(line, "}")
		}
	}
	var add []string
	for _, l := range lines {
		if l.Value != "" && !done[l.Key] {
			add = append(add, write(l)+"\n")
		}
	}
	if len(add) == 0 {
		return []byte(strings.Join(out, ""))
	}
	if insert < 0 {
		insert = len(out)
		if insert > 0 && out[insert-1] != "" && !strings.HasSuffix(out[insert-1], "\n") {
			out[insert-1] += "\n"
		}
	}
	return []byte(strings.Join(out[:insert], "") + strings.Join(add, "") + strings.Join(out[insert:], ""))
}

// comment is that of a line, outside of quotes, with the space before it.
func comment(line string) string {
	line = strings.TrimRight(line, "\r\n")
	var in rune
	for i, r := range line {
		switch {
		case in != 0:
			if r == in {
				in = 0
			}
		case r == '"' || r == '\'':
			in = r
		case r == '#' && i > 0 && (line[i-1] == ' ' || line[i-1] == '\t'):
			return line[len(strings.TrimRight(line[:i], " \t")):]
		}
	}
	return ""
}

// quote writes a text of TOML.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// blockWord writes a value of the block form.
func blockWord(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`"{}#`, r) }) {
		return `"` + strings.ReplaceAll(s, `"`, "") + `"`
	}
	return s
}

// text is the value of a key that holds a text.
func (c *Config) text(key string) string {
	f, ok := fields[key]
	if !ok {
		return ""
	}
	return fmt.Sprint(reflect.ValueOf(c).Elem().Field(f.index).Interface())
}
