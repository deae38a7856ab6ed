// Names and addresses of the mesh go through ginnel, everything else directly.

function FindProxyForURL(url, host) {
  host = host.toLowerCase().replace(/^\[|\]$/g, "").replace(/%.*$/, "").replace(/\.$/, "");
  if (host == "localhost" || isUnder(host, "localhost")) return "DIRECT";
  if (bits(host)) return isInMesh(host) ? mesh.proxy : "DIRECT";
  // ginnel knows which names without a dot are peers' and looks up the others as this machine does.
  if (mesh.allNames || host.indexOf(".") < 0 || mesh.names.indexOf(host) >= 0) return mesh.proxy;
  for (var i = 0; i < mesh.domains.length; i++)
    if (isUnder(host, mesh.domains[i])) return mesh.proxy;
  var found = typeof dnsResolveEx == "function" ? dnsResolveEx(host) : dnsResolve(host);
  var addresses = (found || "").split(";");
  for (var j = 0; j < addresses.length; j++)
    if (isInMesh(addresses[j])) return mesh.proxy;
  return "DIRECT";
}

// isUnder tells whether a name is a domain or below it.
function isUnder(name, domain) {
  return ("." + name).slice(-domain.length - 1) == "." + domain;
}

function isInMesh(address) {
  var a = bits(address);
  if (!a || matches(a, mesh.host)) return false;
  return matches(a, mesh.prefixes);
}

function matches(a, prefixes) {
  for (var i = 0; i < prefixes.length; i++) {
    var parts = prefixes[i].split("/"), length = 1 + Number(parts[1]);
    if (a.slice(0, length) == bits(parts[0]).slice(0, length)) return true;
  }
  return false;
}

// bits writes an address as its family and its bits; what is no address gives "".
function bits(address) {
  if (/^\d+\.\d+\.\d+\.\d+$/.test(address)) return "4" + digits(address.split("."), 10, 8);
  if (address.indexOf(":") < 0) return "";
  var last = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(address);
  if (last) address = last[1] + (last[2] * 256 + +last[3]).toString(16) + ":" + (last[4] * 256 + +last[5]).toString(16);
  var halves = address.split("::");
  var head = halves[0] ? halves[0].split(":") : [], tail = halves[1] ? halves[1].split(":") : [];
  while (halves.length == 2 && head.length + tail.length < 8) head.push("0");
  var all = digits(head.concat(tail), 16, 16);
  // An IPv4 address may come in the form ::ffff:192.0.2.1.
  return all.slice(0, 96) == digits(["0", "0", "0", "0", "0", "ffff"], 16, 16) ? "4" + all.slice(96) : "6" + all;
}

// digits writes numbers, which are given in a base, as so many bits each.
function digits(numbers, base, width) {
  var all = "";
  for (var i = 0; i < numbers.length; i++) {
    var b = parseInt(numbers[i], base).toString(2);
    while (b.length < width) b = "0" + b;
    all += b;
  }
  return all;
}
