package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

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
	var text []byte
	if isTOML(path, old) {
		values := make(map[string]string)
		for _, l := range lines {
			if _, ok := fields[l.Key]; ok { // a directive of blocks is none
				values[l.Key] = l.Value
			}
		}
		text, err = edit(path, old, values, silent)
	} else {
		text, err = editBlocks(path, old, lines)
	}
	if err != nil || bytes.Equal(text, old) {
		return err
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

// editBlocks returns the text of a file in blocks with other lines outside of them.
func editBlocks(path string, old []byte, lines []Line) ([]byte, error) {
	text := edited(old, lines)
	c, problems := ParseBlocks(path, text, os.Getenv, os.ReadFile)
	if len(problems) > 0 {
		return nil, fault.WithHint(fault.Wrap(fault.Invalid, problems[0], "config"), "nothing was changed; change the file by hand")
	}
	for _, l := range lines {
		if got := c.text(l.Key); got != l.Value {
			return nil, fault.WithHint(fault.Newf(fault.Invalid, "%s: the file says %s elsewhere, in a block", path, l.Key), fmt.Sprintf("nothing was changed; set %s to %q by hand", l.Key, l.Value))
		}
	}
	return text, nil
}

func edited(old []byte, lines []Line) []byte {
	write := func(l Line) string { return l.Key + " " + blockText(l.Value) }
	done := make(map[string]bool)
	var out []string
	depth := 0 // of blocks
	for _, raw := range strings.SplitAfter(string(old), "\n") {
		line := strings.TrimSpace(raw)
		if depth == 0 && !strings.HasPrefix(line, "#") {
			word, _, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
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
		if !strings.HasPrefix(line, "#") {
			depth += strings.Count(line, "{") - strings.Count(line, "}")
		}
	}
	for _, l := range lines {
		if l.Value != "" && !done[l.Key] {
			if n := len(out); n > 0 && out[n-1] != "" && !strings.HasSuffix(out[n-1], "\n") {
				out[n-1] += "\n"
			}
			out = append(out, write(l)+"\n")
		}
	}
	return []byte(strings.Join(out, ""))
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

// text is the value of a key that holds a text.
func (c *Config) text(key string) string {
	f, ok := fields[key]
	if !ok {
		return ""
	}
	return fmt.Sprint(reflect.ValueOf(c).Elem().Field(f.index).Interface())
}
