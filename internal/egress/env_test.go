package egress

import (
	"net/url"
	"strings"
	"testing"
)

func TestFromEnvironment(t *testing.T) {
	type env = map[string]string
	for _, test := range []struct {
		name string
		env  env
		urls map[string]string // maps to the proxy, "" for none, or "!" and a text for an error
	}{
		{"nothing", env{}, map[string]string{"https://a.example": "", "http://a.example": "", "derp://a.example": ""}},
		{"each scheme", env{"HTTP_PROXY": "http://web:1", "https_proxy": "https://u:p@secure"}, map[string]string{
			"http://a.example": "http://web:1", "ws://a.example": "http://web:1", "https://a.example": "https://u:p@secure",
			"wss://a.example/derp": "https://u:p@secure", "tcp://a.example:22": ""}},
		{"lower case first", env{"HTTPS_PROXY": "http://upper", "https_proxy": "http://lower", "NO_PROXY": "a.example",
			"no_proxy": "b.example"}, map[string]string{
			"https://a.example": "http://lower", "https://b.example": ""}},
		{"without scheme", env{"HTTPS_PROXY": "corp:3128", "HTTP_PROXY": "10.0.0.1"}, map[string]string{
			"https://a.example": "http://corp:3128", "http://a.example": "http://10.0.0.1"}},
		{"all", env{"ALL_PROXY": "socks5h://corp:1080"}, map[string]string{
			"https://a.example": "socks5h://corp:1080", "http://a.example": "socks5h://corp:1080",
			"tcp://a.example:22": "socks5h://corp:1080"}},
		{"all is the last resort", env{"all_proxy": "socks5://corp", "HTTPS_PROXY": "http://secure"}, map[string]string{
			"https://a.example": "http://secure", "http://a.example": "socks5://corp"}},
		{"no proxy", env{"ALL_PROXY": "http://corp",
			"NO_PROXY": "10.0.0.0/8, fd00::/8,example.com, .dot.example,host.example:8443,192.0.2.7"}, map[string]string{
			"https://10.9.8.7": "", "https://11.9.8.7": "http://corp", "https://[fd00::1]:8": "",
			"https://[fe00::1]:8": "http://corp",
			"https://example.com": "", "https://a.example.com:1": "", "https://notexample.com": "http://corp",
			"https://dot.example": "http://corp", "https://a.dot.example": "", "https://host.example:8443": "",
			"https://host.example": "http://corp",
			"tcp://192.0.2.7:22":   "", "tcp://192.0.2.8:22": "http://corp"}},
		{"no proxy at all", env{"ALL_PROXY": "http://corp", "NO_PROXY": "*"},
			map[string]string{"https://a.example": "", "tcp://a.example:1": ""}},
		{"this machine", env{"ALL_PROXY": "http://corp"}, map[string]string{
			"http://localhost:8080": "", "https://127.0.0.1": "", "https://[::1]:8443": "", "tcp://127.9.9.9:1": ""}},
		{"CGI", env{"HTTP_PROXY": "http://evil", "HTTPS_PROXY": "http://corp", "REQUEST_METHOD": "GET"}, map[string]string{
			"http://a.example": "!CGI", "https://a.example": "http://corp"}},
		{"CGI, all", env{"ALL_PROXY": "http://corp", "REQUEST_METHOD": "GET"},
			map[string]string{"http://a.example": "http://corp"}},
		{"not a URL", env{"HTTPS_PROXY": "http://ann:s3cr%t@corp", "HTTP_PROXY": "http://corp"}, map[string]string{
			"https://a.example": "!reading HTTPS_PROXY: it is neither a URL nor host:port of a proxy",
			"http://a.example":  "http://corp", "https://localhost": ""}},
		{"not a URL either", env{"ALL_PROXY": "http://ann:s3c ret@corp"},
			map[string]string{"https://a.example": "!reading ALL_PROXY: it is"}},
		{"no host", env{"all_proxy": "http://ann:s3cret@:80"},
			map[string]string{"https://a.example": "!reading all_proxy: it is"}},
		{"scheme", env{"ALL_PROXY": "socks4://ann:s3cret@corp:1080"}, map[string]string{
			"https://a.example": "!reading ALL_PROXY: proxy socks4://corp:1080: scheme is none of http"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			proxyFor := FromEnvironment(func(name string) string { return test.env[name] })
			for in, want := range test.urls {
				u, err := url.Parse(in)
				if err != nil {
					t.Fatal(err)
				}
				got, err := proxyFor(u)
				wantErr, fails := strings.CutPrefix(want, "!")
				switch {
				case fails && (err == nil || got != nil || !strings.Contains(err.Error(), wantErr) ||
					strings.Contains(err.Error(), "s3c")):
					t.Errorf("%s: got %v, %v, want an error with %q", in, got, err, wantErr)
				case !fails && (err != nil || got == nil && want != "" || got != nil && got.String() != want):
					t.Errorf("%s: got %v, %v, want %q", in, got, err, want)
				}
			}
		})
	}
}
