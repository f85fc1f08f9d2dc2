"""Products of training with an adapter's matrices beside the weights: µs of each way, interleaved, medians. Needs a GPU.

    python3 scripts/bench/joined_products.py

`64,+R` is a projection with its update (rows padded to whole lines of the cache), `tight` the same without padding, `f32` the plain
product left in f32; `b …` are the way back, `b addmm` an update that is added to it afterwards, `z` is x Aᵀ.
"""

import torch
torch.manual_seed(0)
d='cuda'; T=4096
P={'qkv':(4096,6144,24),'out':(4096,4096,8),'wide':(4096,24576,16),'down':(12288,4096,8)}
for name,(k,n,R) in P.items():
    mkb=lambda r,c: torch.empty(r,c,device=d,dtype=torch.bfloat16).normal_(0,0.02)
    x=mkb(T,k)*50; out=mkb(T,n); o32=torch.empty(T,n,device=d); 
    w=mkb(n,k); wt=mkb(n+R,k+R); w64=mkb(n+64,k+64); xt=mkb(T,k+R)*50; x64=mkb(T,k+64)*50
    dy=mkb(T,n)*50; dyt=mkb(T,n+R)*50; dy64=mkb(T,n+64)*50; dx=mkb(T,k); z=mkb(T,R)*50; A=mkb(R,k); B=mkb(n,R); z64=mkb(T,64)
    out64=mkb(T,n+64)
    F={
     'bf16':lambda: torch.mm(x,w.t(),out=out),
     'f32':lambda: torch.mm(x,w.t(),out_dtype=torch.float32,out=o32),
     'tight':lambda: torch.mm(xt,wt[:n].t(),out=out),
     '64,+R':lambda: torch.mm(x64[:,:k+R],w64[:n,:k+R].t(),out=out),
     '64,+64':lambda: torch.mm(x64,w64[:n].t(),out=out),
     '64,+R,ldd':lambda: torch.mm(x64[:,:k+R],w64[:n,:k+R].t(),out=out64[:,:n]),
     'w64only':lambda: torch.mm(x,w64[:n,:k].t(),out=out),
     'b bf16':lambda: torch.mm(dy,w,out=dx),
     'b addmm':lambda: dx.addmm_(z,A),
     'b tight':lambda: torch.mm(dyt,wt[:,:k],out=dx),
     'b w+R,64':lambda: torch.mm(dy64[:,:n+R],w64[:n+R,:k],out=dx),
     'b wcontig,64':lambda: torch.mm(dy64[:,:n+R],wt.view(-1)[:(n+R)*k].view(n+R,k),out=dx),
     'b 64,64':lambda: torch.mm(dy64,w64[:,:k],out=dx),
     'z':lambda: torch.mm(x,A.t(),out=z),
     'z64':lambda: torch.mm(x64[:,:k],w64[n:,:k].t(),out=z64),
    }
    ev={f:[] for f in F}
    for rep in range(24):
        for f,fn in F.items():
            a=torch.cuda.Event(enable_timing=True);b=torch.cuda.Event(enable_timing=True)
            a.record()
            for _ in range(4): fn()
            b.record(); ev[f].append((a,b))
    torch.cuda.synchronize()
    print(name,' | '.join(f"{f} {sorted(a.elapsed_time(b)*250 for a,b in v[4:])[10]:.1f}" for f,v in ev.items()),flush=True)
