package message

import (
	"io"
	"mime"
	"strings"

	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/transform"
)

// charmaps are the single-octet character sets that mail is written in, by
// their names in lower case. Others are read as if their ASCII were all.
var charmaps = map[string]*charmap.Charmap{
	"iso-8859-1": charmap.Windows1252, "latin1": charmap.Windows1252, "iso-8859-2": charmap.ISO8859_2, "iso-8859-3": charmap.ISO8859_3,
	"iso-8859-4": charmap.ISO8859_4, "iso-8859-5": charmap.ISO8859_5, "iso-8859-6": charmap.ISO8859_6, "iso-8859-7": charmap.ISO8859_7,
	"iso-8859-8": charmap.ISO8859_8, "iso-8859-9": charmap.ISO8859_9, "iso-8859-10": charmap.ISO8859_10, "iso-8859-13": charmap.ISO8859_13,
	"iso-8859-14": charmap.ISO8859_14, "iso-8859-15": charmap.ISO8859_15, "iso-8859-16": charmap.ISO8859_16,
	"windows-1250": charmap.Windows1250, "windows-1251": charmap.Windows1251, "windows-1252": charmap.Windows1252,
	"windows-1253": charmap.Windows1253, "windows-1254": charmap.Windows1254, "windows-1255": charmap.Windows1255,
	"windows-1256": charmap.Windows1256, "windows-1257": charmap.Windows1257, "windows-1258": charmap.Windows1258,
	"windows-874": charmap.Windows874, "koi8-r": charmap.KOI8R, "koi8-u": charmap.KOI8U, "macintosh": charmap.Macintosh,
	"ibm850": charmap.CodePage850, "cp850": charmap.CodePage850, "ibm866": charmap.CodePage866, "cp866": charmap.CodePage866,
}

// ToUTF8 turns text in charset into UTF-8 while it reads. Of a charset that is
// not known the octets come as they are. So they do of US-ASCII: text that is not
// what it says is UTF-8 most of the time.
func ToUTF8(r io.Reader, charset string) io.Reader {
	m := charmaps[strings.ToLower(charset)]
	if m == nil {
		return r
	}
	return transform.NewReader(r, m.NewDecoder())
}

var words = mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
	return ToUTF8(r, charset), nil
}}

// DecodeWords replaces the encoded words of a field value (RFC 2047) by their
// text in UTF-8. What is malformed stays as it is.
func DecodeWords(v string) string {
	if !strings.Contains(v, "=?") {
		return v
	}
	if s, err := words.DecodeHeader(v); err == nil {
		return s
	}
	return v
}
