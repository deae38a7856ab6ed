package control

import (
	"net/url"
	"testing"
)

func mustURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := serverURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
