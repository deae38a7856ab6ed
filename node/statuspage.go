package node

import (
	_ "embed"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"time"
)

//go:embed status.html
var statusHTML string

var statusPage = template.Must(template.New("status").Funcs(template.FuncMap{"bytes": FormatBytes,
	"date": formatDate}).Parse(statusHTML))

// statusView is the data of the page.
type statusView struct {
	Status
	Line string // shell command that sets the proxy variables; empty if no proxy has a TCP port
}

func (a *localAPI) serveStatusPage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := statusPage.Execute(w, statusView{a.n.Status(), a.shellLine()}); err != nil {
		a.n.log.Debug("writing the status page", "err", err)
	}
}

// shellLine returns the shell command that makes programs use the first proxy.
func (a *localAPI) shellLine() string {
	for _, addr := range a.n.ingress.addrs(entryProxy) {
		tcp, ok := addr.(*net.TCPAddr)
		if !ok {
			continue
		}
		at := tcp.AddrPort()
		host := at.Addr().Unmap().String()
		if at.Addr().IsUnspecified() {
			host = "127.0.0.1"
		}
		auth := ""
		if a.n.cfg.ProxyAuth != nil {
			auth = "USER:PASSWORD@"
		}
		url := "http://" + auth + net.JoinHostPort(host, fmt.Sprint(at.Port()))
		return fmt.Sprintf("export http_proxy=%[1]s https_proxy=%[1]s", url)
	}
	return ""
}

// FormatBytes writes a number of bytes with a unit of 1024.
func FormatBytes(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f := float64(n)
	for _, u := range units[:len(units)-1] {
		if f < 1024 {
			if u == "B" {
				return fmt.Sprintf("%d B", n)
			}
			return fmt.Sprintf("%.1f %s", f, u)
		}
		f /= 1024
	}
	return fmt.Sprintf("%.1f %s", f, units[len(units)-1])
}

// formatDate writes a time in UTC, because the reader may be in another zone than the node.
func formatDate(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" }
