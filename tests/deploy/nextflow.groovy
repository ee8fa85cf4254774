// A stand-in for the part of Nextflow's language that deploy/main.nf uses, for machines without
// Nextflow: processes run one after the other, and a failed task is tried as often as maxRetries says.
//
//   groovy nextflow.groovy main.nf NAME=VALUE...

class Channel {
    List items
    Channel splitText() { new Channel(items: items.collectMany { it.readLines() }) }
    Channel map(Closure change) { new Channel(items: items.collect(change)) }
    Channel filter(Closure keep) { new Channel(items: items.findAll(keep)) }
    Channel collect() { new Channel(items: items ? [items] : []) }
    Channel ifEmpty(value) { items ? this : new Channel(items: [value]) }
}

// The body of a process, evaluated once for each task: directives and inputs are method calls.
class Task {
    Map params
    def given
    Map directives = [:]
    Map values = [:]
    String section = 'input'
    def getStdout() { directives.stdout = true }
    def getTask() { directives }
    def val(name) { if (!values) { values[name] = given } }
    def propertyMissing(String name) { values.containsKey(name) ? values[name] : name }
    def methodMissing(String name, arguments) { directives[name] = arguments[0] }
}

class Dsl {
    Map params, processes = [:]
    Closure main
    void process(Map made) { processes += made }
    void workflow(Closure body) { main = body }

    Channel run(String name, List inputs) {
        List results = []
        for (given in (inputs ? inputs[0].items : [null])) {
            for (int attempt = 0; ; attempt++) {
                // Nextflow evaluates directives after the inputs are known, so the body runs twice.
                Task task = new Task(params: params, given: given)
                Closure body = processes[name].rehydrate(task, null, null)
                body.resolveStrategy = Closure.DELEGATE_ONLY
                body()
                String script = body().toString()
                Process shell = ['bash', '-ue', '-c', script].execute()
                StringBuilder printed = new StringBuilder()
                shell.waitForProcessOutput(printed, System.err)
                if (shell.exitValue() == 0) {
                    results << (task.directives.stdout ? printed.toString() : given)
                    break
                }
                boolean again = task.directives.errorStrategy == 'retry'
                if (!again || attempt >= (task.directives.maxRetries ?: 1)) {
                    System.err.println("process $name failed: $script")
                    System.exit(1)
                }
            }
        }
        new Channel(items: results)
    }

    def methodMissing(String name, arguments) {
        // `process NAME { ... }` calls NAME with the body; in a workflow, NAME runs.
        arguments && arguments[0] instanceof Closure ? [(name): arguments[0]] : run(name, arguments as List)
    }
}

def dsl = new Dsl(params: [:])
def binding = new Binding() {
    def getVariable(String name) { name == 'params' ? dsl.params : name == 'launchDir' ? '.' : super.getVariable(name) }
}
def script = new GroovyShell(binding).parse(new File(args[0]))
script.metaClass.methodMissing = { String name, arguments -> dsl.invokeMethod(name, arguments) }
script.run()
args.drop(1).each { given -> def (name, value) = given.split('=', 2); dsl.params[name] = value }
dsl.main.delegate = dsl
dsl.main.resolveStrategy = Closure.DELEGATE_FIRST
dsl.main()
