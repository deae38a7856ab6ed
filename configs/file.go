package configs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

const (
	// maxYAML is the largest YAML file in bytes. The parser takes quadratic time for some inputs: at
	// this size the worst takes seconds.
	maxYAML = 64 << 10
	// maxWireGuard is the largest wg-quick file in bytes, enough for some ten thousand peers.
	maxWireGuard = 4 << 20
	// maxSecret is the largest file of a secret in bytes.
	maxSecret = 64 << 10

	secretPrefix = "file:"
)

var utf8BOM = []byte("\ufeff")

// readFile reads a file of at most limit bytes, which may be a pipe. Its errors name the path.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, tooLarge(path, limit)
	}
	return b, nil
}

func tooLarge(name string, limit int64) Problems {
	return Problems{{Position{File: name}, fmt.Sprintf("is larger than %d KiB", limit>>10)}}
}

// text returns b, the contents of the file called name, without a byte order mark. It refuses
// contents that are larger than limit, are not UTF-8, or have a zero byte, as UTF-16 does.
func text(name string, b []byte, limit int64) (string, error) {
	if int64(len(b)) > limit {
		return "", tooLarge(name, limit)
	}
	b = bytes.TrimPrefix(b, utf8BOM)
	if utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 {
		return string(b), nil
	}
	return "", Problems{{notText(name, b), "is not UTF-8 text here"}}
}

// notText returns the place of the first byte that is zero or not UTF-8.
func notText(name string, b []byte) Position {
	line, column := 1, 1
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == 0 || r == utf8.RuneError && size == 1 {
			break
		}
		b = b[size:]
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
	}
	return Position{name, line, column}
}

// IsSecretFile reports whether value names a file that Secret would read.
func IsSecretFile(value string) bool { return strings.HasPrefix(value, secretPrefix) }

// Secret returns the secret that the value of a flag stands for: value itself or, for file:PATH,
// the contents of the file without a final line break. Errors name the path and not the secret. The
// mode of the file is not checked, because secrets mounted into containers are often readable by
// everybody.
func Secret(value string) (string, error) {
	path, ok := strings.CutPrefix(value, secretPrefix)
	if !ok {
		return value, nil
	}
	if path == "" {
		return "", fmt.Errorf("reading secret: no path after %q", secretPrefix)
	}
	b, err := readFile(path, maxSecret)
	if err != nil {
		return "", fmt.Errorf("reading secret: %w", err)
	}
	secret, ok := strings.CutSuffix(string(b), "\n")
	if ok {
		secret = strings.TrimSuffix(secret, "\r")
	}
	if secret == "" {
		return "", fmt.Errorf("reading secret: %s is empty", path)
	}
	return secret, nil
}
