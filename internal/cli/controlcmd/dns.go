package controlcmd

import (
	"context"

	"ginnel/configs"
	"ginnel/control"
	"ginnel/internal/cli"
)

// dnsSettings returns the DNS settings of the network: those of --dns-config, which is read, or of
// --dns.
func (o *serveOptions) dnsSettings() (names control.DNSConfig, err error) {
	if o.dnsConfig == "" {
		for _, a := range o.dns.Value {
			names.Resolvers = append(names.Resolvers, control.Resolver{Addr: a.String()})
		}
		return names, nil
	}
	if len(o.dns.Value) > 0 {
		return names, cli.Usagef("--dns and --dns-config exclude each other: list the addresses as nameservers in %s",
			o.dnsConfig)
	}
	settings, err := configs.LoadDNS(o.dnsConfig)
	if err != nil {
		return names, cli.Usagef("--dns-config: %w", err)
	}
	names.Resolvers = dnsResolvers(settings.Nameservers)
	names.FallbackResolvers = dnsResolvers(settings.Fallback)
	names.Domains = settings.Search
	for domain, servers := range settings.Split {
		if names.Routes == nil {
			names.Routes = make(map[string][]control.Resolver)
		}
		names.Routes[domain] = dnsResolvers(servers)
	}
	for _, r := range settings.Records {
		names.ExtraRecords = append(names.ExtraRecords, control.DNSRecord{Name: r.Name, Value: r.Addr.String()})
	}
	return names, nil
}

// dnsResolvers returns the servers as wire documents. An empty list must not be left out of the
// document, so the result is never nil.
func dnsResolvers(servers []string) []control.Resolver {
	list := []control.Resolver{}
	for _, s := range servers {
		list = append(list, control.Resolver{Addr: s})
	}
	return list
}

// useDNSConfig reads the file of --dns-config again and sends it to all nodes. If the file is
// wrong, it logs that, and the old settings stay.
func (s *controlService) useDNSConfig() {
	if s.options.dnsConfig == "" {
		return
	}
	var names control.DNSConfig
	err := cli.CheckRegular(s.options.dnsConfig)
	if err == nil {
		names, err = s.options.dnsSettings()
	}
	if err != nil {
		s.log.Error("DNS settings refused, the settings before them stay", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	if err := s.ctl.SetDNS(ctx, names); err != nil {
		s.log.Error("DNS settings not taken", "err", err)
		return
	}
	s.log.Info("DNS settings are in force", "file", s.options.dnsConfig)
}
