#include "parser/outline.h"

#include <algorithm>

#include "parser/internal/checker.h"
#include "parser/mount.h"

namespace lamina::parser {

namespace {

// The text of the comment line that begins with the name.
std::string description_of(const std::vector<std::string>& comments, const std::string& name) {
  if (name.empty()) return {};
  for (const std::string& comment : comments) {
    if (comment.starts_with(name + " ")) return comment.substr(name.size() + 1);
  }
  return {};
}

class Outliner {
 public:
  Outliner(const Dockerfile& dockerfile, const CheckInput& input) : dockerfile_(dockerfile), input_(input), global_(dockerfile, input, true) {}

  Outline run() {
    if (dockerfile_.stages.empty()) return {};
    const std::vector<bool> reached = internal::reached_stages(dockerfile_, global_, input_.target);
    std::vector<internal::StageValues> finished;
    for (size_t k = 0; k < dockerfile_.stages.size(); ++k) {
      const Stage& stage = dockerfile_.stages[k];
      const auto& from = std::get<From>(stage.from.body);
      const internal::Looked base = global_.look(from.image.text);
      if (reached[k]) {
        use(base.found);
        use(base.missing);
        if (from.platform) use(global_.look(from.platform->text).found);
      }
      const int parent = internal::stage_named(dockerfile_, base.text, k, false);
      values_ = parent >= 0 ? finished[static_cast<size_t>(parent)] : internal::StageValues();
      for (const Instruction& i : stage.instructions) add(i, reached[k]);
      finished.push_back(values_);
    }
    add_global_args();
    const Stage& target = dockerfile_.stages[internal::target_stage(dockerfile_, input_.target)];
    out_.name = target.name;
    out_.description = description_of(target.from.comments, target.name);
    std::stable_sort(out_.args.begin(), out_.args.end(), [](const OutlineArg& a, const OutlineArg& b) { return a.range.line < b.range.line; });
    return std::move(out_);
  }

 private:
  void use(const std::vector<std::string>& names) { used_.insert(names.begin(), names.end()); }

  void add(const Instruction& i, bool reached) {
    if (const auto* arg = std::get_if<Arg>(&i.body)) {
      for (const Arg::Item& item : arg->items) add_arg(i, item, reached);
    } else if (const auto* env = std::get_if<Env>(&i.body)) {
      add_env(*env);
    } else if (const auto* run = std::get_if<Run>(&i.body); run != nullptr && reached) {
      for (const Word& mount : run->mounts) add_mount(i, mount);
    }
  }

  void add_arg(const Instruction& i, const Arg::Item& item, bool reached) {
    const auto value = internal::declare(item, input_, global_, values_, dockerfile_.directives.escape);
    if (!reached) return;
    const std::string& name = item.name.text;
    used_.insert(name);
    // Without a value of its own it is the global one, which is listed with its place.
    const bool inherited = !item.value && !input_.build_args.contains(name) && (global_.declared(name) || global_.get(name));
    if (inherited || !listed_.insert(name).second) return;
    out_.args.push_back({name, description_of(i.comments, name), value.value_or(""), i.range});
  }

  void add_env(const Env& env) {
    std::vector<std::pair<std::string, std::string>> pairs;
    const Lookup lookup = [this](std::string_view n) { return values_.get(n); };
    const char escape = dockerfile_.directives.escape;
    for (const KeyValue& kv : env.pairs) pairs.emplace_back(internal::look(kv.key.text, lookup, escape).text, internal::look(kv.value.text, lookup, escape).text);
    for (auto& [key, value] : pairs) values_.env[key] = std::move(value);
  }

  void add_mount(const Instruction& i, const Word& word) {
    const auto mount = parse_mount(word.text, [this](std::string_view n) { return values_.get(n); }, dockerfile_.directives.escape);
    if (!mount) return;
    const auto put = [&](std::vector<OutlineMount>& list, const std::string& id) {
      const bool known = std::any_of(list.begin(), list.end(), [&](const OutlineMount& m) { return m.id == id; });
      if (!known) list.push_back({id, mount->required, i.range});
    };
    if (mount->type == MountType::kSecret) put(out_.secrets, mount->id);
    if (mount->type == MountType::kSsh) put(out_.ssh, mount->id);
    if (mount->type == MountType::kCache) put(out_.caches, mount->id.empty() ? mount->target : mount->id);
  }

  // Global ARGs that a FROM or a stage's ARG takes, and those that their defaults are made of.
  void add_global_args() {
    for (auto i = dockerfile_.global_args.rbegin(); i != dockerfile_.global_args.rend(); ++i) {
      const auto* arg = std::get_if<Arg>(&i->body);
      if (arg == nullptr) continue;
      for (auto item = arg->items.rbegin(); item != arg->items.rend(); ++item) {
        const std::string& name = item->name.text;
        if (!used_.contains(name)) continue;
        if (item->value) use(global_.look(item->value->text).found);
        if (listed_.insert(name).second) out_.args.push_back({name, description_of(i->comments, name), global_.get(name).value_or(""), i->range});
      }
    }
  }

  const Dockerfile& dockerfile_;
  const CheckInput& input_;
  internal::GlobalValues global_;
  internal::StageValues values_;
  std::set<std::string> used_, listed_;
  Outline out_;
};

}  // namespace

std::vector<Target> list_targets(const Dockerfile& dockerfile) {
  std::vector<Target> targets;
  for (const Stage& stage : dockerfile.stages) {
    const auto& from = std::get<From>(stage.from.body);
    targets.push_back({stage.name, &stage == &dockerfile.stages.back(), description_of(stage.from.comments, stage.name), from.image.text,
                       from.platform ? from.platform->text : std::string(), stage.from.range});
  }
  return targets;
}

Outline make_outline(const Dockerfile& dockerfile, const CheckInput& input) { return Outliner(dockerfile, input).run(); }

}  // namespace lamina::parser
