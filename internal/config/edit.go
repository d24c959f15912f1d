package config

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"madmail/internal/fault"
	"madmail/internal/safefile"
)

// A file is edited by replacing what a line says. Everything else stays octet by octet:
// comments, blank lines, the order, the ends of lines.

// ServeSite makes a file say which directory the pages come from: dir, or "" for those
// of the program; strict adds that only they are shown. In the block syntax every
// chatmail block says so. changed is false when the file said so already. The file is
// replaced whole, and only when reading it again gives just this change.
//
// Errors: fault.NotFound without a file, fault.Invalid for a file that cannot be read
// or has no place for it.
func ServeSite(path, dir string, strict bool) (changed bool, err error) {
	if path, err = filepath.EvalSymlinks(path); err == nil {
		var info os.FileInfo
		if info, err = os.Stat(path); err == nil {
			return serveSite(path, info.Mode().Perm(), dir, strict)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, fault.WithHint(fault.Wrap(fault.NotFound, err, "config"), "name the configuration with --config")
	}
	return false, fault.Wrap(fault.Invalid, err, "config")
}

// Holds reports whether a directory is another one or is around it, links followed.
func Holds(dir, other string) bool {
	real := func(path string) string {
		if p, err := filepath.EvalSymlinks(path); err == nil {
			path = p
		}
		p, err := filepath.Abs(path)
		if err != nil {
			return path
		}
		return p
	}
	outer, inner := real(dir), real(other)
	rest, err := filepath.Rel(outer, inner)
	return err == nil && rest != ".." && !strings.HasPrefix(rest, ".."+string(filepath.Separator))
}

func serveSite(path string, mode fs.FileMode, dir string, strict bool) (bool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return false, fault.Wrap(fault.Invalid, err, "config")
	}
	values := map[string]string{"www_dir": dir, "www_strict": ""}
	if strict && dir != "" {
		values["www_strict"] = "true"
	}
	out, err := edit(path, data, values, without)
	if err != nil || bytes.Equal(out, data) {
		return false, err
	}
	return true, safefile.Write(path, out, mode)
}

// parsed reads the text of a file as Load does.
func parsed(path string, data []byte) (*Config, error) {
	c, problems := parseFile(path, data)
	if len(problems) > 0 {
		return nil, fault.Wrap(fault.Invalid, problems[0], "")
	}
	return c, nil
}

// edit returns the text of a file with other values of some keys; "" lets remove take
// one away. Keys are those of the TOML form; of a file in blocks, those that a chatmail
// block has, too.
func edit(path string, data []byte, values map[string]string, remove func(text []byte, from, to int) cut) ([]byte, error) {
	before, err := parsed(path, data)
	if err != nil {
		return nil, err
	}
	text := bytes.TrimPrefix(data, []byte("\ufeff"))
	mark := data[:len(data)-len(text)]
	var cuts []cut
	if isTOML(path, data) {
		cuts = tomlCuts(text, values, remove)
	} else {
		cuts, err = blockCuts(path, text, values)
	}
	if err != nil {
		return nil, err
	}
	out := append(slices.Clone(mark), apply(text, cuts)...)
	after, err := parsed(path, out)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the value cannot be written into "+path)
	}
	want := *before
	v := reflect.ValueOf(&want).Elem()
	for key, text := range values {
		f := v.Field(fields[key].index)
		if fields[key].kind == "goBool" {
			f.SetBool(text == "true")
		} else {
			f.SetString(text)
		}
	}
	got := *after
	want.Notes, got.Notes = nil, nil // they have line numbers
	if !reflect.DeepEqual(want, got) {
		return nil, fault.WithHint(fault.Newf(fault.Invalid, "%s cannot be edited without changing something else", path), "set "+strings.Join(slices.Sorted(maps.Keys(values)), ", ")+" there by hand, then run madmail reload")
	}
	return out, nil
}

// cut replaces a part of a text.
type cut struct {
	from, to int
	text     string
}

func apply(text []byte, cuts []cut) []byte {
	slices.SortStableFunc(cuts, func(a, b cut) int { return cmp.Compare(a.from, b.from) })
	var out []byte
	at := 0
	for _, c := range cuts {
		out = append(append(out, text[at:c.from]...), c.text...)
		at = c.to
	}
	return append(out, text[at:]...)
}

// lineEnd is what ends lines of a file.
func lineEnd(text []byte) string {
	if n := bytes.IndexByte(text, '\n'); n > 0 && text[n-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// without is the cut that removes what stands in part of a line, with the line, unless a
// comment or a brace stands behind it.
func without(text []byte, from, to int) cut {
	rest := text[to:]
	if n := bytes.IndexByte(rest, '\n'); n >= 0 {
		rest = rest[:n]
	}
	if left := bytes.TrimLeft(rest, " \t\r"); len(left) > 0 {
		return cut{from, to + len(rest) - len(left), ""}
	}
	start := bytes.LastIndexByte(text[:from], '\n') + 1
	return cut{start, min(to+len(rest)+1, len(text)), ""}
}

// silent is the cut that makes a comment of a line.
func silent(text []byte, from, _ int) cut {
	start := bytes.LastIndexByte(text[:from], '\n') + 1
	return cut{start, start, "# "}
}

// tomlText is a text as TOML writes it, on one line.
func tomlText(s string) string {
	if !strings.ContainsAny(s, "\"\\") {
		return `"` + s + `"`
	}
	if !strings.Contains(s, "'") {
		return "'" + s + "'"
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func tomlCuts(text []byte, values map[string]string, remove func(text []byte, from, to int) cut) (cuts []cut) {
	end := lineEnd(text)
	var p unstable.Parser
	p.Reset(text)
	prefix, place, header := "", 0, len(text) // place is where a new line goes: behind the last one above all tables
	found := make(map[string]bool)
	for p.NextExpression() {
		e := p.Expression()
		key := dotted(e.Key())
		it := e.Key()
		it.Next()
		from := int(it.Node().Raw.Offset)
		if e.Kind != unstable.KeyValue {
			if prefix = tables[key]; e.Kind == unstable.Table && header == len(text) {
				header = bytes.LastIndexByte(text[:from], '\n') + 1
			}
			continue
		}
		to := int(e.Raw.Offset + e.Raw.Length)
		if header == len(text) {
			if place = len(text); bytes.IndexByte(text[to:], '\n') >= 0 {
				place = to + bytes.IndexByte(text[to:], '\n') + 1
			}
		}
		name := prefix + key
		if t, rest, ok := strings.Cut(key, "."); ok && prefix == "" && header == len(text) {
			if pre, known := tables[t]; known {
				name = pre + rest
			}
		}
		value, wanted := values[name]
		if !wanted {
			continue
		}
		found[name] = true
		if value == "" {
			cuts = append(cuts, remove(text, from, to))
			continue
		}
		cuts = append(cuts, cut{tomlValue(text, from), to, tomlForm(name, value)})
	}
	for _, name := range absent(values, found) {
		line := name + " = " + tomlForm(name, values[name]) + end
		if place > 0 && text[place-1] != '\n' {
			line = end + strings.TrimSuffix(line, end)
		}
		cuts = append(cuts, cut{place, place, line})
	}
	return cuts
}

// absent are the keys that have to be added, in order.
func absent(values map[string]string, found map[string]bool) (names []string) {
	for name, value := range values {
		if value != "" && !found[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func tomlForm(name, value string) string {
	if fields[name].kind == "goBool" {
		return value
	}
	return tomlText(value)
}

// tomlValue is where the value of a key begins: behind the equals sign that follows the
// key. Keys of ours have none in them.
func tomlValue(text []byte, from int) int {
	n := from + bytes.IndexByte(text[from:], '=') + 1
	return n + len(text[n:]) - len(bytes.TrimLeft(text[n:], " \t"))
}

// blockText is a text as the block syntax writes it.
func blockText(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\"#{}\\") {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}

// blockCuts edits every chatmail block, and the snippets that have the keys already.
func blockCuts(path string, text []byte, values map[string]string) (cuts []cut, err error) {
	tokens, bad := lexBlocks(path, text, func(name string) string { return "{env:" + name + "}" })
	if bad != nil {
		return nil, fault.Wrap(fault.Invalid, *bad, "")
	}
	end := lineEnd(text)
	depth, inside, snippet, blocks := 0, false, false, 0
	var opened int                 // where the line that opened the block ends
	var closing token              // of an empty block that closes in its line
	found := make(map[string]bool) // of this block
	finish := func(indent string) {
		for _, name := range absent(values, found) {
			line := indent + name + " " + blockText(values[name]) + end
			if closing.to > 0 {
				line = end + strings.TrimSuffix(line, end)
			}
			cuts = append(cuts, cut{opened, opened, line})
		}
		if closing.to > 0 && len(found) < len(values) && values["www_dir"] != "" {
			cuts = append(cuts, cut{closing.from, closing.from, end})
		}
	}
	indent := ""
	for i := 0; i < len(tokens); i++ {
		first := tokens[i]
		if first.end {
			continue
		}
		last := i // of the line
		for !tokens[last].end {
			last++
		}
		line := tokens[i:last]
		opens := slices.ContainsFunc(line, func(t token) bool { return t.brace("{") })
		closes := line[len(line)-1].brace("}")
		if depth == 0 && opens {
			_, snippet = bracketed(first.text, "(")
			if inside = first.text == "chatmail"; inside || snippet {
				clear(found)
				opened, closing, indent = min(tokens[last].to, len(text)), token{}, "    "
				if closes { // { } in one line
					closing, opened = line[len(line)-1], line[len(line)-2].to
				} else if next := i + len(line) + 1; next < len(tokens) {
					for next < len(tokens)-1 && tokens[next].end {
						next++
					}
					start := bytes.LastIndexByte(text[:tokens[next].from], '\n') + 1
					if blank := text[start:tokens[next].from]; len(bytes.TrimLeft(blank, " \t")) == 0 && len(blank) > 0 && !tokens[next].brace("}") {
						indent = string(blank)
					}
				}
			}
			if inside {
				blocks++
			}
		}
		if depth == 1 && (inside || snippet) && !first.brace("}") {
			if value, wanted := values[first.text]; wanted {
				found[first.text] = true
				args := line[1:]
				if closes {
					args = args[:len(args)-1]
				}
				to := first.to
				if len(args) > 0 {
					to = args[len(args)-1].to
				}
				if value == "" {
					cuts = append(cuts, without(text, first.from, to))
				} else {
					cuts = append(cuts, cut{first.to, to, " " + blockText(value)})
				}
			}
		}
		if opens {
			depth++
		}
		if closes {
			if depth--; depth == 0 {
				if inside {
					finish(indent)
				}
				inside, snippet = false, false
			}
		}
		i = last
	}
	if blocks == 0 {
		return nil, fault.WithHint(fault.Newf(fault.Invalid, "%s has no chatmail block", path), "the pages are served by one: chatmail tcp://0.0.0.0:80 { }")
	}
	return cuts, nil
}
