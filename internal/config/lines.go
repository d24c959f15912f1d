package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"

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
	text := bytes.TrimPrefix(old, []byte("\ufeff"))
	mark := old[:len(old)-len(text)]
	cuts, err := topCuts(path, text, lines)
	if err != nil {
		return nil, err
	}
	text = append(slices.Clone(mark), apply(text, cuts)...)
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

// topCuts changes, silences and adds lines outside of blocks. What is said twice is
// said once afterwards.
func topCuts(path string, text []byte, lines []Line) (cuts []cut, err error) {
	tokens, bad := lexBlocks(path, text, func(name string) string { return "{env:" + name + "}" })
	if bad != nil {
		return nil, fault.WithHint(fault.Wrap(fault.Invalid, *bad, "config"), "nothing was changed; change the file by hand")
	}
	write := func(l Line) string { return " " + blockText(l.Value) }
	done := make(map[string]bool)
	depth := 0
	for i := 0; i < len(tokens); i++ {
		first, last := tokens[i], i
		for !tokens[last].end {
			last++
		}
		if line := tokens[i:last]; len(line) > 0 {
			at := slices.IndexFunc(lines, func(l Line) bool { return l.Key == first.text })
			if depth == 0 && at >= 0 {
				if l := lines[at]; l.Value == "" || done[l.Key] {
					cuts = append(cuts, silent(text, first.from, 0))
				} else {
					done[l.Key] = true
					cuts = append(cuts, cut{first.to, line[len(line)-1].to, write(l)})
				}
			}
			for _, t := range line {
				if t.brace("{") {
					depth++
				} else if t.brace("}") {
					depth--
				}
			}
		}
		i = last
	}
	end := lineEnd(text)
	var more string
	for _, l := range lines {
		if l.Value != "" && !done[l.Key] {
			more += l.Key + write(l) + end
		}
	}
	if n := len(text); more != "" && n > 0 && text[n-1] != '\n' {
		more = end + more
	}
	return append(cuts, cut{len(text), len(text), more}), nil
}

// text is the value of a key that holds a text.
func (c *Config) text(key string) string {
	f, ok := fields[key]
	if !ok {
		return ""
	}
	return fmt.Sprint(reflect.ValueOf(c).Elem().Field(f.index).Interface())
}
