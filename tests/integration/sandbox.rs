//! The sandbox in ordinary use.

use atp_pipeline::tool::{Sandbox, SandboxConfig, Status};

#[test]
fn hello() {
    let sandbox = Sandbox::new(&SandboxConfig::default()).unwrap();
    println!("{}", sandbox.capabilities());
    for r in sandbox.run(&[
        "print(2 ** 100 % 7)",
        "sum(range(10))",
        "1/0",
        "import os; print(os.listdir('.'), os.environ, os.getcwd()); open('/etc/passwd')",
        "import socket; socket.socket()",
        "import sympy; sympy.factor(sympy.Symbol('x')**2-1)",
    ]) {
        println!("{r:?}");
    }
    assert_eq!(sandbox.run(&["1"])[0].status, Status::Finished);
}
