#include <cstring>

#include "base/text.h"
#include "builder/internal/sandbox_plan.h"

namespace lamina::builder::internal {

namespace {

class Writer {
 public:
  void number(uint64_t n) {
    char bytes[8];
    std::memcpy(bytes, &n, 8);
    out_.append(bytes, 8);
  }
  void text(std::string_view s) {
    number(s.size());
    out_ += s;
  }
  void list(const std::vector<std::string>& items) {
    number(items.size());
    for (const std::string& s : items) text(s);
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

// Every read is checked; after the first short one all values are empty and good() is false.
class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) {}
  uint64_t number() {
    if (in_.size() < 8) {
      fail();
      return 0;
    }
    uint64_t n = 0;
    std::memcpy(&n, in_.data(), 8);
    in_.remove_prefix(8);
    return n;
  }
  std::string text() {
    const uint64_t size = number();
    if (size > in_.size()) {
      fail();
      return {};
    }
    std::string s(in_.substr(0, size));
    in_.remove_prefix(size);
    return s;
  }
  std::vector<std::string> list() {
    std::vector<std::string> items;
    for (uint64_t n = number(); n > 0 && good_; --n) items.push_back(text());
    return items;
  }
  bool good() const { return good_; }

 private:
  void fail() {
    good_ = false;
    in_ = {};
  }
  std::string_view in_;
  bool good_ = true;
};

constexpr uint64_t kNoSize = UINT64_MAX;

void write_mount(Writer& w, const SandboxMount& m) {
  w.number(static_cast<uint64_t>(m.type));
  w.text(m.source);
  w.text(m.target);
  w.number(m.read_only ? 1 : 0);
  w.number(m.size_bytes.value_or(kNoSize));
  w.number(m.mode);
  w.list(m.overlay_lower);
  w.text(m.scratch);
  w.text(m.subpath);
  w.text(m.content);
  for (const uint32_t n : {m.uid, m.gid, m.block ? 1U : 0U, m.dev_major, m.dev_minor}) w.number(n);
}

SandboxMount read_mount(Reader& r) {
  SandboxMount m;
  m.type = static_cast<SandboxMount::Type>(r.number());
  m.source = r.text();
  m.target = r.text();
  m.read_only = r.number() != 0;
  const uint64_t size = r.number();
  if (size != kNoSize) m.size_bytes = size;
  m.mode = static_cast<uint32_t>(r.number());
  m.overlay_lower = r.list();
  m.scratch = r.text();
  m.subpath = r.text();
  m.content = r.text();
  m.uid = static_cast<uint32_t>(r.number());
  m.gid = static_cast<uint32_t>(r.number());
  m.block = r.number() != 0;
  m.dev_major = static_cast<uint32_t>(r.number());
  m.dev_minor = static_cast<uint32_t>(r.number());
  return m;
}

}  // namespace

std::vector<std::string> to_arguments(const SandboxBase& base) {
  return {kSandboxArgv0, base.network == NetworkMode::kNone ? "none" : "host", base.insecure ? "insecure" : "confined",
          base.inherit_stdio ? "terminal" : "pipes", base.full_privileges ? "root" : "mapped", std::to_string(base.shm_size_bytes)};
}

std::optional<SandboxBase> from_arguments(int argc, char** argv) {
  if (argc != 6 || std::string_view(argv[0]) != kSandboxArgv0) return std::nullopt;
  SandboxBase base;
  base.network = std::string_view(argv[1]) == "none" ? NetworkMode::kNone : NetworkMode::kHost;
  base.insecure = std::string_view(argv[2]) == "insecure";
  base.inherit_stdio = std::string_view(argv[3]) == "terminal";
  base.full_privileges = std::string_view(argv[4]) == "root";
  const auto size = parse_uint(argv[5]);
  if (!size) return std::nullopt;
  base.shm_size_bytes = *size;
  return base;
}

std::string serialise(const SandboxPlan& plan) {
  const SandboxSpec& s = plan.spec;
  Writer w;
  w.list(s.lower_dirs);
  w.text(s.upper_dir);
  w.text(s.work_dir);
  w.list(s.argv);
  w.list(s.environment);
  w.text(s.working_dir);
  w.text(s.user);
  w.text(s.hostname);
  w.number(static_cast<uint64_t>(s.network));
  w.number(s.mounts.size());
  for (const SandboxMount& m : s.mounts) write_mount(w, m);
  w.number(s.insecure ? 1 : 0);
  w.number(s.shm_size_bytes);
  w.list(s.ulimits);
  w.number(s.extra_groups.size());
  for (const uint32_t g : s.extra_groups) w.number(g);
  w.number(s.inherit_stdio ? 1 : 0);
  w.text(plan.hosts);
  w.text(plan.resolv_conf);
  w.number(plan.full_privileges ? 1 : 0);
  return w.take();
}

Result<SandboxPlan> deserialise(std::string_view text) {
  Reader r(text);
  SandboxPlan plan;
  SandboxSpec& s = plan.spec;
  s.lower_dirs = r.list();
  s.upper_dir = r.text();
  s.work_dir = r.text();
  s.argv = r.list();
  s.environment = r.list();
  s.working_dir = r.text();
  s.user = r.text();
  s.hostname = r.text();
  s.network = static_cast<NetworkMode>(r.number());
  for (uint64_t n = r.number(); n > 0 && r.good(); --n) s.mounts.push_back(read_mount(r));
  s.insecure = r.number() != 0;
  s.shm_size_bytes = r.number();
  s.ulimits = r.list();
  for (uint64_t n = r.number(); n > 0 && r.good(); --n) s.extra_groups.push_back(static_cast<uint32_t>(r.number()));
  s.inherit_stdio = r.number() != 0;
  plan.hosts = r.text();
  plan.resolv_conf = r.text();
  plan.full_privileges = r.number() != 0;
  if (!r.good()) return Error(ErrorKind::kInternal, "the sandbox plan is damaged");
  return plan;
}

std::string serialise(const Error& error) {
  Writer w;
  w.text("error");
  w.number(static_cast<uint64_t>(error.kind()));
  w.text(error.message());
  w.number(static_cast<uint64_t>(error.error_number()));
  w.list(error.context());
  w.list(error.notes());
  return w.take();
}

std::string serialise(const ExitStatus& status) {
  Writer w;
  w.text("exit");
  w.number(static_cast<uint64_t>(status.code));
  w.number(static_cast<uint64_t>(status.signal));
  return w.take();
}

Result<std::optional<ExitStatus>> read_report(std::string_view text) {
  if (text.empty()) return std::optional<ExitStatus>();
  Reader r(text);
  const std::string what = r.text();
  if (what == "exit") {
    ExitStatus status;
    status.code = static_cast<int>(r.number());
    status.signal = static_cast<int>(r.number());
    if (r.good()) return std::optional(status);
  }
  if (what != "error") return std::optional<ExitStatus>();
  const auto kind = static_cast<ErrorKind>(r.number());
  std::string message = r.text();
  Error error(kind, std::move(message));
  error = std::move(error).with_errno(static_cast<int>(r.number()));
  for (std::string& c : r.list()) error = std::move(error).with_context(std::move(c));
  for (std::string& n : r.list()) error = std::move(error).with_note(std::move(n));
  return error;
}

}  // namespace lamina::builder::internal
